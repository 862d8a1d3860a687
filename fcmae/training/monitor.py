"""How useful the features are during training: nearest neighbors on labeled images, and signs of feature collapse.

Measurements use a copy of the encoder, which sees whole images, and leave torch's random generators unchanged. They do
not change the training.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from statistics import fmean

import torch
from torch import Tensor

from fcmae.analysis.accuracy import top_accuracy
from fcmae.analysis.collapse import analyze_collapse
from fcmae.analysis.features import Embedder
from fcmae.analysis.knn import knn_scores
from fcmae.config import DIGITS, PretrainConfig
from fcmae.data.labeled import LabeledData, labeled_digits, labeled_folder
from fcmae.data.samples import PretrainDataset
from fcmae.data.unreadable import UnreadableFiles
from fcmae.models import FCMAE, SparseConvNeXt
from fcmae.runs.reader import HOLDOUT_LOSS, KNN, STAGE_DISTANCE

logger = logging.getLogger(__name__)

GROUP = "monitor"  # in TensorBoard
BATCH, NEIGHBORS = 32, 20


class Monitor:
    """Measures an encoder on whole images of the run's size, in float32.

    Args:
        config: the run's configuration; ``config.monitor`` says what to measure.
        dataset: the training images.
        held_out: images that are not trained on, for their loss.

    Raises:
        UserError: ``monitor.data`` is not a folder of classes.
    """

    def __init__(
        self, config: PretrainConfig, dataset: PretrainDataset, held_out: PretrainDataset | None = None
    ) -> None:
        self.config, self.dataset, self.held_out = config, dataset, held_out
        self.labeled = _labeled_data(config)
        self.unreadable = UnreadableFiles()

    def measure(self, model: FCMAE, device: torch.device) -> dict[str, float]:
        """``cosine_distance_stage_0`` … ``3``; with labels ``knn_top1``; with held-out images ``holdout_loss``.

        Without ``monitor.every`` the last alone. The model is unchanged.

        Raises:
            UserError: no image can be read, or features are not finite.
        """
        # a new network draws initial weights and a data loader draws a seed, even if neither is used
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            loss = self._holdout_loss(model, device)
            if not self.config.monitor.every:
                return loss
            encoder = SparseConvNeXt(replace(self.config.model, backend="auto", checkpoint_stages=()))
            encoder.load_state_dict(model.encoder.state_dict())
            encoder.to(device).eval()
            return self._distances(encoder, device) | self._neighbors(encoder, device) | loss

    def _holdout_loss(self, model: FCMAE, device: torch.device) -> dict[str, float]:
        """The loss on held-out images, each with a fixed center crop and mask: the mean over images."""
        if self.held_out is None:
            return {}
        copy = FCMAE(replace(self.config.model, backend="auto", checkpoint_stages=()))
        copy.load_state_dict(model.state_dict())
        copy.to(device).eval()
        total = count = 0
        for batch in self.held_out.fixed_batches(self.config.monitor.images, BATCH):
            self.unreadable.note(batch.unreadable)
            images = self.held_out.normalize(batch.image.to(device))
            visible = batch.visible.to(device)
            scored = None if batch.scored is None else batch.scored.to(device)
            output = copy(
                images, visible=visible, num_visible=self.held_out.num_visible, masked_only=True, scored=scored
            )
            total += len(images) * output.loss.item()
            count += len(images)
        self.unreadable.share(num_processes=1)
        return {HOLDOUT_LOSS: total / count}

    def _distances(self, encoder: SparseConvNeXt, device: torch.device) -> dict[str, float]:
        """Mean over the images and the blocks of each stage."""
        images = self.dataset.fixed_samples(self.config.monitor.images).image
        batches = (self.dataset.normalize(some.to(device)) for some in images.split(BATCH))
        rows = analyze_collapse(encoder, batches)
        stages = sorted({row.stage for row in rows})
        return {f"{STAGE_DISTANCE}{n}": fmean(row.distance for row in rows if row.stage == n) for n in stages}

    def _neighbors(self, encoder: SparseConvNeXt, device: torch.device) -> dict[str, float]:
        if self.labeled is None:
            return {}
        model = self.config.model
        embedder = Embedder("the encoder", partial(_pooled, encoder), self.dataset.reading, self.dataset.normalize)
        train, test = (
            embedder.features(part, model.image_hw, BATCH, device) for part in (self.labeled.train, self.labeled.test)
        )
        classes = int(max(train.labels.max(), test.labels.max())) + 1
        k = min(NEIGHBORS, len(train.labels))
        scores = knn_scores(train.x.to(device), train.labels, test.x, classes, k)
        return {KNN: top_accuracy(scores, test.labels).share}


def in_words(measured: Mapping[str, float]) -> str:
    """What was measured, as a sentence."""
    distances = [f"{value:.3f}" for name, value in measured.items() if name.startswith(STAGE_DISTANCE)]
    parts = []
    if distances:
        parts.append(f"the channels' mean cosine distance by stage is {', '.join(distances)} (near 0: collapsed)")
    if KNN in measured:
        parts.append(f"the kNN accuracy is {measured[KNN]:.1%}")
    if HOLDOUT_LOSS in measured:
        parts.append(f"the loss on held-out images is {measured[HOLDOUT_LOSS]:.4f}")
    return "; ".join(parts)


def _pooled(encoder: SparseConvNeXt, images: Tensor) -> Tensor:
    """[B, C, H, W] → [B, C_last]: the mean over all patches, all of them visible."""
    height, width = (size // encoder.patch_size for size in images.shape[2:])
    visible = torch.ones(len(images), height, width, dtype=torch.bool, device=images.device)
    return encoder(images, visible).mean((2, 3))


def _labeled_data(config: PretrainConfig) -> LabeledData | None:
    data, limit = config.monitor.data, config.monitor.images
    if data is None:
        return None
    if not config.monitor.every:
        logger.warning("--monitor.data %s is not used: --monitor.every is 0", data)
        return None
    if data == DIGITS:
        return labeled_digits(seed=config.seed, limit=limit)
    return labeled_folder(data, seed=config.seed, limit=limit, flag="--monitor.data")

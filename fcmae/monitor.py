"""What features are worth while training goes on: nearest neighbours on labelled images, and signs of feature collapse.

Measuring is done on a dense copy of the encoder (the network of :mod:`fcmae.evaluate`) and draws nothing from torch's
generators that others draw from: it changes no number of the training.
"""

import logging
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fcmae.analysis.accuracy import top_accuracy
from fcmae.analysis.features import Embedder, dense_network, pool
from fcmae.analysis.knn import knn_scores
from fcmae.analysis.labelled import LabelledData, labelled_digits, labelled_folder
from fcmae.config import DIGITS, PretrainConfig
from fcmae.data import PretrainDataset
from fcmae.models import FCMAE

logger = logging.getLogger(__name__)

GROUP = "monitor"  # of TensorBoard's points
BATCH, NEIGHBOURS = 32, 20


class Monitor:
    """Measures an encoder on whole images of the run's size, in float32.

    Args:
        config: the run's; ``config.monitor`` says what is measured.
        dataset: the training images.

    Raises:
        UserError: ``monitor.data`` is no folder of classes.
    """

    def __init__(self, config: PretrainConfig, dataset: PretrainDataset) -> None:
        self.config, self.dataset = config, dataset
        self.labelled = _labelled_data(config)

    def measure(self, model: FCMAE, device: torch.device) -> dict[str, float]:
        """``cosine_distance_stage0`` … ``3``, and ``knn_top1`` if there are labels; the model is left as it was.

        Raises:
            UserError: no image can be read, or features are not finite.
        """
        # a fresh network draws its first weights, and data loaders a seed, whether or not they have a use for it
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            network = dense_network(model.encoder.state_dict(), self.config.model).to(device).eval()
            return self._distances(network, device) | self._neighbours(network, device)

    def _distances(self, network: Any, device: torch.device) -> dict[str, float]:
        """Mean over the images, for each stage's last feature map."""
        images = self.dataset.fixed_samples(self.config.monitor.images).image
        batches = []
        for some in images.split(BATCH):
            _, maps = network.forward_intermediates(self.dataset.normalise(some.to(device)))
            batches.append(torch.stack([cosine_distance(x_BCHW) for x_BCHW in maps]))
        return {f"cosine_distance_stage{n}": d for n, d in enumerate(torch.cat(batches, 1).mean(1).tolist())}

    def _neighbours(self, network: Any, device: torch.device) -> dict[str, float]:
        if self.labelled is None:
            return {}
        model = self.config.model
        mean, std = self.config.data.mean_std(model.in_chans)
        encoder = Embedder("the encoder", lambda images: pool(network, images), model.in_chans, mean, std)
        train, test = (
            encoder.features(part, model.image_hw, BATCH, device) for part in (self.labelled.train, self.labelled.test)
        )
        classes = int(max(train.labels.max(), test.labels.max())) + 1
        k = min(NEIGHBOURS, len(train.labels))
        scores = knn_scores(train.x.to(device), train.labels, test.x, classes, k)
        return {"knn_top1": top_accuracy(scores, test.labels).share}


def cosine_distance(x_BCHW: Tensor) -> Tensor:
    """Mean of (1 − cos) / 2 over all pairs of an image's channels, [B] (arXiv 2301.00808, section 4); 0: collapsed.

    The cosines of all pairs add up to the square of the summed unit vectors.
    """
    unit_BCL = F.normalize(x_BCHW.flatten(2), dim=2)
    return (1 - unit_BCL.sum(1).square().sum(1) / x_BCHW.shape[1] ** 2) / 2


def _labelled_data(config: PretrainConfig) -> LabelledData | None:
    data, limit = config.monitor.data, config.monitor.images
    if data is None:
        return None
    if not config.monitor.every:
        logger.warning("--monitor.data %s is not used: --monitor.every is 0", data)
        return None
    if data == DIGITS:
        return labelled_digits(seed=config.seed, limit=limit)
    return labelled_folder(data, seed=config.seed, limit=limit, flag="--monitor.data")

"""Predictions and features of a fine-tuned run for any images, read and cropped as in validation."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from fcmae.cli.devices import choose_device
from fcmae.data.sources.files import collect
from fcmae.data.unreadable import UnreadableFiles
from fcmae.errors import UserError
from fcmae.finetuning.best import best_folder
from fcmae.finetuning.classes import CLASSES
from fcmae.finetuning.labeled_images import of_files
from fcmae.finetuning.predictions_file import ARRAYS, TABLES, check_path_column
from fcmae.finetuning.samples import CenterCrops, crop_share
from fcmae.finetuning.validation import outputs
from fcmae.runs.find import FOLDER, MODEL
from fcmae.weights.dense import dense_network
from fcmae.weights.formats.base import read_json
from fcmae.weights.read import read_weights
from fcmae.weights.settings import pixels, run_setting

if TYPE_CHECKING:
    from fcmae.predict import PredictConfig, Predicted

logger = logging.getLogger("fcmae")


class _WithFeatures(nn.Module):
    """Logits and, after them, the features that the classifier sees: [B, classes + width]."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        features = self.network.forward_head(self.network.forward_features(images), pre_logits=True)
        return torch.cat([self.network.head.fc(features), features], dim=1)


def predictions(config: "PredictConfig") -> "Predicted":
    """As :func:`fcmae.predict.predict`, without writing files."""
    from fcmae.predict import Predicted

    run, checkpoint = _places(Path(config.run))
    stated = read_json(run / CLASSES)
    classes = [str(name) for name in stated.get("classes", [])]
    several = bool(stated.get("multi_label"))
    weights = read_weights(checkpoint)
    if not classes or weights.num_classes != len(classes):
        raise UserError(f"{checkpoint} has {weights.num_classes} outputs, but {run / CLASSES} names {len(classes)}")
    device = choose_device(config.device)
    described = weights.config
    read_as = pixels(checkpoint, described.in_chans)
    network = dense_network(weights, read_as.normalize, len(classes)).to(device)
    images = collect(config.images, flag="IMAGES", access=config.data.access)
    for file, flag, instead in ((config.output, "--output", TABLES), (config.features, "--features", ARRAYS)):
        if file is not None:
            check_path_column(Path(file), flag, images.names, instead[0])
    crop_pct = crop_share(run_setting(checkpoint / MODEL, "data", "crop_pct", float), described.image_hw)
    unlabeled = of_files(images, np.zeros(len(images), np.int64))
    crops = CenterCrops(unlabeled, described.image_hw, crop_pct, read_as.reading, read_as.normalize)
    unreadable = UnreadableFiles()
    batches = list(
        outputs(
            _WithFeatures(network), crops, range(len(crops)), device, config.batch_size, config.num_workers, unreadable
        )
    )
    unreadable.share(1)
    if not batches:
        raise UserError(f"none of the {len(images)} images can be read; each is named above")
    places, found = (torch.cat(parts) for parts in zip(*batches, strict=True))
    logits, features = found[:, : len(classes)], found[:, len(classes) :]
    p = logits.sigmoid() if several else logits.softmax(1)
    if several:
        labels = [";".join(classes[int(c)] for c in (row >= config.threshold).nonzero()[:, 0]) for row in p]
    else:
        labels = [classes[int(c)] for c in p.argmax(1)]
    names = tuple(images.names[int(place)] for place in places)
    return Predicted(names, tuple(labels), tuple(classes), p, features, len(unreadable.seen))


def _places(given: Path) -> tuple[Path, Path]:
    """The run folder, and the checkpoint folder in it."""
    for run, checkpoint in ((given, best_folder(given)), (given.parent.parent, given)):
        if (run / CLASSES).is_file() and (checkpoint / MODEL).is_file():
            return run, checkpoint
    raise UserError(
        f"{given} is not a run of fcmae finetune with weights: it lacks {CLASSES} or {FOLDER}/best/{MODEL}; a "
        f"pretrained run has no classifier"
    )

"""Predictions and features of a fine-tuned run for any images, read and cropped as in validation."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from fcmae.cli.devices import choose_device
from fcmae.data.sources.files import collect
from fcmae.data.sources.image_set import Lazily
from fcmae.data.unreadable import UnreadableFiles
from fcmae.errors import UserError
from fcmae.finetuning.classifier import classifier_at
from fcmae.finetuning.labeled_images import of_files
from fcmae.finetuning.predictions_file import ARRAYS, TABLES, check_path_column
from fcmae.finetuning.samples import CenterCrops
from fcmae.finetuning.validation import outputs
from fcmae.weights.dense import dense_network

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

    taken = classifier_at(Path(config.run))
    classes, read_as = taken.classes, taken.pixels
    device = choose_device(config.device)
    network = dense_network(taken.weights, read_as.normalize, len(classes)).to(device)
    images = collect(config.images, flag="IMAGES", access=config.data.access)
    called = Lazily(len(images), lambda place: images.given(place) or images.name(place))
    for file, flag, instead in ((config.output, "--output", TABLES), (config.features, "--features", ARRAYS)):
        if file is not None:
            check_path_column(Path(file), flag, called, instead[0])
    unlabeled = of_files(images, np.zeros(len(images), np.int64))
    crops = CenterCrops(unlabeled, taken.weights.config.image_hw, taken.crop_pct, read_as.reading, read_as.normalize)
    unreadable = UnreadableFiles()
    batches = list(
        outputs(
            _WithFeatures(network), crops, range(len(crops)), device, config.batch_size, config.num_workers, unreadable
        )
    )
    unreadable.share(1)
    if not batches:
        what = "the image cannot" if len(images) == 1 else f"none of the {len(images):,} images can"
        raise UserError(f"{what} be read; named above")
    places, found = (torch.cat(parts) for parts in zip(*batches, strict=True))
    logits, features = found[:, : len(classes)], found[:, len(classes) :]
    p = logits.sigmoid() if taken.is_multi_label else logits.softmax(1)
    if taken.is_multi_label:
        labels = [";".join(classes[int(c)] for c in (row >= config.threshold).nonzero()[:, 0]) for row in p]
    else:
        labels = [classes[int(c)] for c in p.argmax(1)]
    names = tuple(called[int(place)] for place in places)
    return Predicted(names, tuple(labels), classes, p, features, len(unreadable.seen))

"""Predictions and features of a fine-tuned run for any images, read and cropped as in validation."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from fcmae.analysis.accuracy import Accuracy
from fcmae.cli.devices import choose_device
from fcmae.data.pixel_reading import PixelReading
from fcmae.data.sources.archives.names import expanded
from fcmae.data.sources.files import collect
from fcmae.data.sources.image_set import Lazily
from fcmae.data.unreadable import UnreadableFiles
from fcmae.errors import UserError
from fcmae.finetuning.average_precision import AveragePrecision, average_precision
from fcmae.finetuning.classifier import classifier_at
from fcmae.finetuning.labeled_images import of_files
from fcmae.finetuning.predictions_file import ARRAYS, TABLES, check_path_column
from fcmae.finetuning.samples import CenterCrops
from fcmae.finetuning.source_table import is_table_of_paths
from fcmae.finetuning.tables import TEXT
from fcmae.finetuning.true_labels import (
    TrueLabels,
    labels_of_folders,
    name_in_source,
    stated_by_source,
)
from fcmae.finetuning.validation import outputs
from fcmae.training.pixels import FAINT, GLARING
from fcmae.weights.dense import dense_network
from fcmae.wording import none_readable

if TYPE_CHECKING:
    from fcmae.predict import PredictConfig, Predicted

logger = logging.getLogger("fcmae")


class _WithFeatures(nn.Module):
    """Logits and, after them, the features that the classifier sees: [B, classes + width].

    It keeps sums over the images that it was given.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.images = 0
        self.sums = torch.zeros(2, 1, dtype=torch.float64)
        """Of each channel's mean over the pixels of an image, and of its squares'."""

    @property
    def contrast(self) -> float:
        """The standard deviation of the normalized values, over all channels; 1 is usual."""
        means, squares = self.sums / self.images
        return float((squares - means**2).clamp(min=0).mean().sqrt())

    def forward(self, images: Tensor) -> Tensor:
        self.images += len(images)
        of_batch = torch.stack([one.float().mean((2, 3)).sum(0) for one in (images, images**2)])
        self.sums = self.sums + of_batch.cpu().double()
        features = self.network.forward_head(self.network.forward_features(images), pre_logits=True)
        return torch.cat([self.network.head.fc(features), features], dim=1)


class _CropsForRun(CenterCrops):
    """Center crops whose reasons do not advise options of training: these are settings of the run."""

    def __getitem__(self, index: int) -> tuple[int, Tensor | str]:
        place, found = super().__getitem__(index)
        if isinstance(found, str):
            found = found.replace("--model.in_chans is", "the run takes").partition("; set --model.in_chans")[0]
            found = found.replace("--data.", "the run's data.")
        return place, found


def predictions(config: "PredictConfig") -> "Predicted":
    """As :func:`fcmae.predict.predict`, without writing files."""
    from fcmae.predict import Predicted

    taken = classifier_at(Path(config.run))
    classes, read_as = taken.classes, taken.pixels
    device = choose_device(config.device)
    network = dense_network(taken.weights, read_as.normalize, len(classes)).to(device)
    access, sources = config.data.access, expanded(config.images)
    if is_table_of_paths(sources) and Path(sources[0]).suffix.lower() in TEXT:  # has no options of Parquet
        access = replace(access, label_column=None)
    images = collect(config.images, flag="IMAGES", access=access)
    called = Lazily(len(images), lambda place: images.given(place) or images.name(place))
    for file, flag, instead in ((config.output, "--output", TABLES), (config.features, "--features", ARRAYS)):
        if file is not None:
            check_path_column(Path(file), flag, called, instead[0])
    stated = stated_by_source(images, config, classes, taken.is_multi_label)
    unlabeled = of_files(images, np.zeros(len(images), np.int64))
    crops = _CropsForRun(unlabeled, taken.weights.config.image_hw, taken.crop_pct, read_as.reading, read_as.normalize)
    unreadable = UnreadableFiles()
    model = _WithFeatures(network)
    batches = list(outputs(model, crops, range(len(crops)), device, config.batch_size, config.num_workers, unreadable))
    unreadable.share(1)
    if not batches:
        raise UserError(f"{none_readable(len(images))}; named above")
    if not FAINT <= model.contrast <= GLARING:
        logger.warning(
            "the images have %s contrast: their standard deviation, normalized as in the run, is %.2g, where 1 is "
            "usual. Their values must mean the same as those of the images that the run was trained on%s",
            "little" if model.contrast < FAINT else "much", model.contrast, _range_of(read_as.reading),
        )  # fmt: skip
    places, found = (torch.cat(parts) for parts in zip(*batches, strict=True))
    logits, features = found[:, : len(classes)], found[:, len(classes) :]
    p = logits.sigmoid() if taken.is_multi_label else logits.softmax(1)
    if taken.is_multi_label:
        labels = [";".join(classes[int(c)] for c in (row >= config.threshold).nonzero()[:, 0]) for row in p]
    else:
        labels = [classes[int(c)] for c in p.argmax(1)]
    names = tuple(called[place] for place in places.tolist())
    truth = stated.labels
    if truth is None and not taken.is_multi_label:
        counting = [one for one in places.tolist() if stated.places is None or one in stated.places]
        truth = labels_of_folders({one: name_in_source(images, one) for one in counting}, classes, stated.split)
    score = None if truth is None else _scored(truth, places, logits, classes, taken.is_multi_label)
    return Predicted(
        names, tuple(labels), classes, p, features, len(unreadable.seen),
        accuracy=score if isinstance(score, Accuracy) else None,
        average_precision=score if isinstance(score, AveragePrecision) else None,
        truth=truth.said_by if truth is not None and score is not None else "",
    )  # fmt: skip


def _scored(
    truth: TrueLabels, places: Tensor, logits: Tensor, classes: Sequence[str], has_several: bool
) -> Accuracy | AveragePrecision | None:
    """Of the images whose labels are known and that could be read; None, and a line, if that says nothing."""
    rows = [row for row, place in enumerate(places.tolist()) if place in truth.of_places]
    numbers = [truth.of_places[int(places[row])] for row in rows]
    if not rows or (has_several and not any(numbers)):
        which = "image that has one could be read" if not rows else "image that could be read has one"
        logger.warning("not scored by the %s: no %s", truth.said_by, which)
        return None
    if has_several:
        labels = torch.zeros(len(rows), len(classes))
        for row, own in zip(labels, numbers, strict=True):
            row[list(own)] = 1
        return average_precision(logits[rows], labels)
    predicted = logits[rows].argmax(1).tolist()
    right = sum(classes[one] == classes[true] for one, (true,) in zip(predicted, numbers, strict=True))
    return Accuracy(right, len(rows))


def _range_of(reading: PixelReading) -> str:
    """For a message: which values the run maps to 0 … 1."""
    given = reading.value_range
    return "" if given is None else f": it maps {','.join(f'{edge:g}' for edge in given)} to 0 … 1 (data.value_range)"

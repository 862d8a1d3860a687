"""Datasets of timm to fine-tune on."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from timm.data import create_dataset
from torch.utils.data import IterableDataset

from fcmae.data.images import ImageFile, UnreadableImageError
from fcmae.data.labeled import check_apart, item_of, known_labels
from fcmae.data.pixel_reading import PixelReading
from fcmae.data.reading.pillow import upright_pixels
from fcmae.errors import UserError
from fcmae.finetuning.config import FinetuneDataConfig
from fcmae.finetuning.labeled_images import LabeledImages, LabeledSet, in_memory_image, some_of

logger = logging.getLogger("fcmae")


def timm_set(data: FinetuneDataConfig) -> LabeledSet:
    """A dataset of ``timm.data.create_dataset``.

    Raises:
        UserError: timm cannot create it, its images have no index or no class numbers, or its splits have images in
            common or other classes.
    """
    splits = data.train_split, data.val_split
    datasets = [_created(data, split) for split in splits]
    check_apart(str(data.dataset), str(data.path), splits, datasets)
    parts, names = [], None
    for split, dataset in zip(splits, datasets, strict=True):
        labels = known_labels(dataset)
        if labels is None:
            logger.info("reading the labels of %s, split %s", data.dataset, split)
            labels = np.array([dataset[n][1] for n in range(len(dataset))])
        if labels.dtype.kind not in "iu" or (labels < 0).any():
            raise UserError(
                f"--data.dataset {data.dataset} has labels such as {labels.flat[0]!r}; class numbers needed"
            )
        own = _class_names(dataset)
        if names is not None and own is not None and own != names:
            raise UserError(
                f"--data.dataset {data.dataset} has other classes in split {split} than in {data.train_split}: "
                f"{some_of(sorted(set(own) ^ set(names)))} in one of them only; the numbers of its labels differ"
            )
        names = names or own
        images = [f"{split}/{n}" for n in range(len(dataset))]
        parts.append(LabeledImages(partial(_open_item, dataset), images, labels.astype(np.int64)))
    count = 1 + max(int(part.labels.max()) for part in parts)
    classes = names if names is not None and len(names) >= count else tuple(map(str, range(count)))
    return LabeledSet(str(data.dataset), classes, *parts, flag="--data.dataset")


def _created(data: FinetuneDataConfig, split: str) -> Any:
    try:
        found = create_dataset(
            data.dataset, root=str(data.path), split=split, is_training=False, download=data.download
        )
    except (Exception, AssertionError) as error:  # each underlying library raises its own errors
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"--data.dataset {data.dataset}, split {split}, in {data.path}: {reason}") from error
    if isinstance(found, IterableDataset):
        raise UserError(f"--data.dataset {data.dataset} is a stream, whose images cannot be taken by index")
    return found


def _class_names(dataset: Any) -> tuple[str, ...] | None:
    numbers = getattr(getattr(dataset, "reader", None), "class_to_idx", None) or getattr(dataset, "class_to_idx", None)
    if isinstance(numbers, dict):
        return tuple(str(name) for name, _ in sorted(numbers.items(), key=lambda item: item[1]))
    names = getattr(dataset, "classes", None)
    return tuple(map(str, names)) if isinstance(names, list | tuple) else None


def _open_item(dataset: Any, index: int, reading: PixelReading) -> ImageFile:
    name = Path(str(index))
    try:
        pixels = upright_pixels(item_of(dataset, index)[0])
    except Exception as error:  # what the dataset's own reader raises
        raise UnreadableImageError(f"image {index}: {' '.join(str(error).split())}") from error
    return in_memory_image(name, reading, *pixels)

"""Labeled images for evaluating features: a folder with one subfolder per class, a timm dataset, or bundled digits."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from timm.data import ImageDataset, create_dataset
from torch import Tensor
from torch.utils.data import IterableDataset
from torchvision.transforms.v2 import functional as TF

from fcmae.config import DIGITS
from fcmae.data.classes import LabeledFiles, class_folder, limited, stratified_split
from fcmae.data.crop_batches import crop_batches
from fcmae.data.crops import center_box, resized
from fcmae.data.images import PIL_MODES
from fcmae.data.parts import Source, named
from fcmae.data.pixel_reading import PixelReading
from fcmae.data.sources.image_set import ImageSet
from fcmae.errors import UserError
from fcmae.progress import tracked

logger = logging.getLogger(__name__)


class LabeledBatch(NamedTuple):
    """A batch of images and their classes."""

    images: Tensor
    """float32 [B, C, H, W] in 0 … 1, on the CPU."""
    labels: Tensor
    """int64 [B]."""


Batches = Callable[[tuple[int, int], PixelReading | int, int], Iterator[LabeledBatch]]
"""(image_hw, how files are read or just in_chans, batch_size) → one pass over the images, always in the same order."""


@dataclass(frozen=True)
class LabeledData:
    """A train and a test split."""

    name: str
    train: Batches
    test: Batches


def labeled_digits(test_share: float = 0.2, seed: int = 0, limit: int | None = None) -> LabeledData:
    """scikit-learn's 1797 handwritten digits, 8×8 gray, shipped in its wheel; resized to the requested size.

    Args:
        test_share: share of each class in the test split.
        seed: seed of the split.
        limit: maximum number of images per split, as many of each class as of the others.
    """
    from sklearn.datasets import load_digits  # slow to import, and only needed here

    digits = load_digits()
    images = torch.from_numpy(np.round(digits.images * (255 / 16)).astype(np.uint8))[:, None]
    parts = stratified_split(digits.target, test_share, seed)
    train, test = (part[limited(digits.target[part], limit, seed)] for part in parts)
    return LabeledData(DIGITS, *(partial(_array_batches, images[part], digits.target[part]) for part in (train, test)))


def labeled_folder(
    folder: Source,
    test_share: float = 0.2,
    seed: int = 0,
    limit: int | None = None,
    flag: str = "--data.path",
    num_workers: int = 0,
) -> LabeledData:
    """A folder with one subfolder per class, or with ``train/`` and ``val/`` that hold such subfolders.

    Without ``train/`` and ``val/`` (:mod:`fcmae.data.splits`) each class is split by ``test_share``. Images may
    be nested deeper inside a class folder. Unreadable images are logged and skipped.

    Args:
        folder: as above.
        test_share: share of each class in the test split.
        seed: seed of the split.
        limit: maximum number of images per split, as many of each class as of the others.
        flag: option name used in error messages.
        num_workers: worker processes that read images; 0: the main process.

    Raises:
        UserError: the folder does not exist, fewer than two classes, or a class with too few images.
    """
    return labeled_files(named(folder), class_folder(folder, test_share, seed, limit, flag), num_workers)


def labeled_files(name: str, parts: tuple[LabeledFiles, LabeledFiles], num_workers: int = 0) -> LabeledData:
    """Image files whose classes are known: the train and the test split."""
    return LabeledData(name, *(partial(_folder_batches, *part, num_workers) for part in parts))


def labeled_timm(
    name: str,
    root: str | Path,
    train_split: str = "train",
    test_split: str = "validation",
    download: bool = False,
    seed: int = 0,
    limit: int | None = None,
) -> LabeledData:
    """A dataset that ``timm.data.create_dataset`` knows: torch/cifar10, hfds/…, wds/…, tfds/…

    With ``limit``, each split has at most that many images, drawn with ``seed``: as many of each class as of the others
    if the dataset tells its labels without decoding images. Of an iterable dataset, the first.

    Raises:
        UserError: timm cannot create it.
    """

    def split(which: str) -> Any:
        try:
            return create_dataset(name, root=str(root), split=which, is_training=False, download=download)
        except (Exception, AssertionError) as error:  # each underlying library raises its own errors
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"--data.dataset {name}, split {which}, in {root}: {reason}") from error

    splits = train_split, test_split
    datasets = [split(which) for which in splits]
    check_apart(name, str(root), splits, datasets)
    return LabeledData(name, *(partial(_dataset_batches, dataset, name, limit, seed) for dataset in datasets))


def check_apart(name: str, root: str, splits: tuple[str, str], datasets: Sequence[Any]) -> None:
    """UserError if the two splits of a timm dataset have files in common, as those of a folder without subfolders for
    its splits, of which timm takes all images for both."""
    train, test = (_files_of(dataset) for dataset in datasets)
    common = len(test & train)
    in_memory = [getattr(dataset, "train", None) for dataset in datasets]  # torchvision's, as of CIFAR
    if common or len(set(splits)) == 1 or (isinstance(in_memory[0], bool) and in_memory[0] == in_memory[1]):
        what = f"{common:,} of the {len(test):,} images" if common else "the images"
        raise UserError(
            f"--data.dataset {name}: {what} of split {splits[1]} in {root} are also in split {splits[0]}; it needs a "
            f"folder or file for each split, or give --data.path without --data.dataset"
        )


def _files_of(dataset: Any) -> set[str]:
    """Where the images of a map-style dataset are, as far as it tells: their paths, or their names in archives."""
    holder = getattr(dataset, "reader", dataset)  # timm's own
    found = set()
    for first, *others in getattr(holder, "samples", ()):
        inside = [str(getattr(one, "name", one)) for one in (*others, first)]
        found.add(os.path.abspath(first) if isinstance(first, str) else "\0".join([str(holder.root), *inside]))
    return found


def known_labels(dataset: Any) -> np.ndarray | None:
    """Labels of a map-style dataset, if it tells them without decoding images."""
    samples = getattr(getattr(dataset, "reader", None), "samples", None)  # timm's own
    known = [label for _, label in samples] if samples is not None else getattr(dataset, "targets", None)
    return None if known is None or len(known) != len(dataset) else np.asarray(known)


def item_of(dataset: Any, index: int) -> tuple[Image.Image, Any]:
    """(image, label) of a map-style dataset.

    Raises:
        Exception: the image is damaged; timm's folders would give the next one, whose label may be another.
    """
    if not isinstance(dataset, ImageDataset):
        image, label = dataset[index]
        return image, label
    file, label, *_ = dataset.reader[index]
    opened = Image.open(file)
    return opened.convert(dataset.input_img_mode) if dataset.input_img_mode else opened, label


def _folder_batches(
    paths: ImageSet,
    labels: np.ndarray,
    num_workers: int,
    image_hw: tuple[int, int],
    reading: PixelReading | int,
    batch_size: int,
) -> Iterator[LabeledBatch]:
    for batch in crop_batches(paths, image_hw, reading, batch_size, num_workers):
        yield LabeledBatch(batch.images, torch.from_numpy(labels)[batch.indices])


def _array_batches(
    images: Tensor, labels: np.ndarray, image_hw: tuple[int, int], reading: PixelReading | int, batch_size: int
) -> Iterator[LabeledBatch]:
    in_chans = PixelReading.of(reading).in_chans
    batches = zip(images.split(batch_size), torch.from_numpy(labels).split(batch_size), strict=True)
    for some, of_them in tracked(batches, len(labels), "reading images", lambda batch: len(batch[0])):
        crops = [_crop(image.expand(in_chans, -1, -1), image_hw) for image in some]
        yield LabeledBatch(torch.stack(crops), of_them)


def _dataset_batches(
    dataset: Any,
    name: str,
    limit: int | None,
    seed: int,
    image_hw: tuple[int, int],
    reading: PixelReading | int,
    batch_size: int,
) -> Iterator[LabeledBatch]:
    in_chans = PixelReading.of(reading).in_chans
    if in_chans not in PIL_MODES:
        raise UserError(f"--data.dataset {name} supports 1 to 4 channels, but the network takes {in_chans}")
    if isinstance(dataset, IterableDataset):
        items: Iterator[Any] = islice(dataset, limit)
    else:  # by index: iterating over a map-style dataset without __iter__ may never end
        known = known_labels(dataset)
        places = limited(np.zeros(len(dataset), int) if known is None else known, limit, seed)
        items = _readable(dataset, name, tracked(places, len(places), "reading images"))
    images: list[Tensor] = []
    labels: list[int] = []
    for image, label in items:
        if not isinstance(label, int | np.integer) or label < 0:
            raise UserError(f"--data.dataset {name} has labels such as {label!r}; they must be class numbers from 0")
        labels.append(int(label))
        images.append(_crop(_pixels(image, in_chans), image_hw))
        if len(images) == batch_size:
            yield LabeledBatch(torch.stack(images), torch.tensor(labels))
            images, labels = [], []
    if images:
        yield LabeledBatch(torch.stack(images), torch.tensor(labels))


def _readable(dataset: Any, name: str, places: Iterable[int]) -> Iterator[tuple[Image.Image, Any]]:
    for place in places:
        try:
            item = item_of(dataset, int(place))
        except Exception as error:  # what the dataset's own reader raises
            logger.warning("skipped, cannot be read: image %d of %s: %s", place, name, " ".join(str(error).split()))
        else:
            yield item


def _pixels(image: Image.Image, in_chans: int) -> Tensor:
    return TF.pil_to_tensor(image.convert(PIL_MODES[in_chans]))


def _crop(pixels: Tensor, image_hw: tuple[int, int]) -> Tensor:
    top, left, height, width = center_box((pixels.shape[1], pixels.shape[2]), image_hw)
    crop = resized(pixels[:, top : top + height, left : left + width], image_hw)
    return TF.to_dtype(crop, torch.float32, scale=True)

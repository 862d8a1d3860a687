"""Labeled images for evaluating features: a folder with one subfolder per class, a timm dataset, or embedded digits."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from timm.data import create_dataset
from torch import Tensor
from torch.utils.data import IterableDataset
from torchvision.transforms.v2 import functional as TF

from fcmae.cli.progress import tracked
from fcmae.config import DIGITS
from fcmae.data.crop_batches import crop_batches
from fcmae.data.crops import center_box, resized
from fcmae.data.folder import equal_shares
from fcmae.data.images import PIL_MODES
from fcmae.data.pixel_reading import PixelReading
from fcmae.data.sources.files import ImageFiles, collect
from fcmae.errors import UserError

logger = logging.getLogger(__name__)

TRAIN, TEST = "train", ("val", "validation", "test")  # names of the subfolders that split a folder


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


def stratified_split(labels_N: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of N labels in two splits, both ascending; the second holds about ``share`` of every class.

    A class with two or more images is in both splits; a class with one is in the first.
    """
    random = np.random.default_rng(seed)
    second = np.zeros(len(labels_N), dtype=bool)
    for label in np.unique(labels_N):
        places = random.permutation(np.flatnonzero(labels_N == label))
        count = min(max(1, round(share * len(places))), len(places) - 1)
        second[places[:count]] = True
    return np.flatnonzero(~second), np.flatnonzero(second)


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
    train, test = (part[_limited(digits.target[part], limit, seed)] for part in parts)
    return LabeledData(DIGITS, *(partial(_array_batches, images[part], digits.target[part]) for part in (train, test)))


def labeled_folder(
    folder: str | Path,
    test_share: float = 0.2,
    seed: int = 0,
    limit: int | None = None,
    flag: str = "--data.path",
    num_workers: int = 0,
) -> LabeledData:
    """A folder with one subfolder per class, or with ``train/`` and ``val/`` that hold such subfolders.

    Without ``train/`` and ``val/`` (or ``validation/``, ``test/``) each class is split by ``test_share``. Images may
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
    folder = Path(folder)
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "does not exist"
        raise UserError(f"{flag} {folder} {what}; give a folder with one subfolder of images per class")
    tests = [folder / name for name in TEST if (folder / name).is_dir()]
    if (folder / TRAIN).is_dir() and tests:
        train, test = (class_folders(part, flag) for part in (folder / TRAIN, tests[0]))
        if strangers := sorted(test.keys() - train.keys()):
            raise UserError(f"{flag} {tests[0]} has classes that {folder / TRAIN} lacks: {', '.join(strangers[:5])}")
        names = list(train)
    else:
        found = class_folders(folder, flag)
        names = list(found)
        if few := [name for name in names if len(found[name]) < 2]:
            raise UserError(
                f"{flag} {folder}: to be split, a class needs at least 2 images; too few in {', '.join(few[:5])}"
            )
        paths, labels = _listed(found, names)
        parts = stratified_split(labels, test_share, seed)
        train, test = (
            {names[c]: [paths[i] for i in part if labels[i] == c] for c in range(len(names))} for part in parts
        )
    if len(names) < 2:
        raise UserError(
            f"{flag} {folder} holds one class, {names[0]}; it needs one subfolder per class and at least two classes "
            f"(or train/ and val/ that contain them)"
        )
    parts_listed = []
    for part in (train, test):
        paths, labels = _listed(part, names)
        kept = _limited(labels, limit, seed)
        parts_listed.append(partial(_folder_batches, [paths[i] for i in kept], labels[kept], num_workers))
    return LabeledData(str(folder), *parts_listed)


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

    def split(which: str) -> Batches:
        try:
            dataset = create_dataset(name, root=str(root), split=which, is_training=False, download=download)
        except (Exception, AssertionError) as error:  # each underlying library raises its own errors
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"--data.dataset {name}, split {which}, in {root}: {reason}") from error
        return partial(_dataset_batches, dataset, name, limit, seed)

    return LabeledData(name, split(train_split), split(test_split))


def class_folders(folder: Path, flag: str) -> dict[str, ImageFiles]:
    """Subfolder name → its images, by the alphabet; raises UserError if there are none."""
    places: dict[str, list[int]] = {}
    loose = 0
    images = collect(folder, by_class=True, flag=flag)
    for place, name in enumerate(images.names):
        inside = Path(name).parts
        if len(inside) == 1:
            loose += 1
        else:
            places.setdefault(inside[0], []).append(place)
    if not places:
        raise UserError(f"{flag} {folder} has no subfolders with images; it needs one per class")
    if loose:
        logger.warning("%d image(s) in %s are not in a class subfolder and are skipped", loose, folder)
    if empty := sorted(d.name for d in folder.iterdir() if d.is_dir() and d.name not in places and d.name[0] != "."):
        logger.warning("no images in %s of %s; these folders are not used as classes", ", ".join(empty[:5]), folder)
    return {name: images.subset(inside) for name, inside in sorted(places.items())}


def _listed(found: Mapping[str, Sequence[Path]], names: Sequence[str]) -> tuple[list[Path], np.ndarray]:
    pairs = [(path, label) for label, name in enumerate(names) for path in found.get(name, ())]
    return [path for path, _ in pairs], np.array([label for _, label in pairs], dtype=np.int64)


def _limited(labels_N: np.ndarray, limit: int | None, seed: int) -> np.ndarray:
    """Places of at most ``limit`` of N images, ascending: as many of each class as of the others, drawn by ``seed``.

    With fewer images than classes some classes have none, the same ones for the same classes and seed.
    """
    if limit is None or limit >= len(labels_N):
        return np.arange(len(labels_N))
    random = np.random.default_rng(seed)
    classes = random.permutation(np.unique(labels_N))
    of_classes = [np.flatnonzero(labels_N == label) for label in classes]
    shares = equal_shares([len(places) for places in of_classes], limit)
    drawn = [random.choice(places, n, replace=False) for places, n in zip(of_classes, shares, strict=True)]
    return np.sort(np.concatenate(drawn))


def known_labels(dataset: Any) -> np.ndarray | None:
    """Labels of a map-style dataset, if it tells them without decoding images."""
    samples = getattr(getattr(dataset, "reader", None), "samples", None)  # timm's own
    known = [label for _, label in samples] if samples is not None else getattr(dataset, "targets", None)
    return None if known is None or len(known) != len(dataset) else np.asarray(known)


def _folder_batches(
    paths: list[Path],
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
    for some, of_them in tracked(batches, len(labels), "images", lambda batch: len(batch[0])):
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
        places = _limited(np.zeros(len(dataset), int) if known is None else known, limit, seed)
        items = (dataset[int(i)] for i in tracked(places, len(places), "images"))
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


def _pixels(image: Image.Image, in_chans: int) -> Tensor:
    return TF.pil_to_tensor(image.convert(PIL_MODES[in_chans]))


def _crop(pixels: Tensor, image_hw: tuple[int, int]) -> Tensor:
    top, left, height, width = center_box((pixels.shape[1], pixels.shape[2]), image_hw)
    crop = resized(pixels[:, top : top + height, left : left + width], image_hw)
    return TF.to_dtype(crop, torch.float32, scale=True)

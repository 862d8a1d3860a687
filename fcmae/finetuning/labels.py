"""Labeled images for fine-tuning: folders of classes, tables, datasets of timm, and tiles of bundled photos."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from timm.data import create_dataset
from torch.utils.data import IterableDataset

from fcmae.data.classes import class_parts, listed, may_hold_classes, stratified_split
from fcmae.data.crops import center_crop
from fcmae.data.images import ImageFile, UnreadableImageError, open_image
from fcmae.data.labeled import item_of, known_labels
from fcmae.data.pixel_reading import PixelReading
from fcmae.data.reading.channels import fitted
from fcmae.data.reading.pillow import in_memory, upright_pixels
from fcmae.data.sources.entries import in_natural_order
from fcmae.data.sources.files import ImageFiles
from fcmae.data.sources.image_set import ImageSet, Labeled
from fcmae.data.splits import TEST, TRAINING
from fcmae.errors import UserError, in_a_line
from fcmae.finetuning.config import PHOTOS, FinetuneDataConfig
from fcmae.finetuning.tables import Row, is_table, read_table
from fcmae.finetuning.tiles import photo_tiles
from fcmae.progress import tracked

logger = logging.getLogger("fcmae")

ACCEPTED = (
    "give a folder with a subfolder for each class, such a .tar or .zip, a table (.csv, .parquet) of labels and paths "
    "or images, a URL of these, a --data.dataset of timm in its folder, or the word photo-tiles"
)
SHOWN = 5  # classes that a message names
Open = Callable[[int, PixelReading], ImageFile]


@dataclass(frozen=True)
class LabeledImages:
    """N images with their labels, by index. Picklable, for worker processes."""

    open: Open
    """(index, reading) → the image, not decoded yet; raises UnreadableImageError."""
    names: Sequence[str]
    labels: np.ndarray
    """int64 [N], or bool [N, C] where an image may have several."""
    files: ImageSet | None = None
    """None: they are no files."""

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, places: Sequence[int] | np.ndarray) -> "LabeledImages":
        """Some of the images, in the order of ``places``."""
        chosen = [int(place) for place in places]
        return LabeledImages(
            partial(_open_chosen, self.open, chosen),
            [self.names[n] for n in chosen],
            self.labels[chosen],
            None if self.files is None else self.files.subset(chosen),
        )

    def as_files(self) -> ImageSet:
        """What identifies the set for a resumed run: the labels are part of the names."""
        if self.files is not None:
            return Labeled(self.files, self.labels)
        names = [f"{label}:{name}" for label, name in zip(self.labels.tolist(), self.names, strict=True)]
        return ImageFiles([], names, [])


@dataclass(frozen=True)
class LabeledSet:
    """Images to train on and to validate on."""

    name: str
    classes: tuple[str, ...]
    train: LabeledImages
    val: LabeledImages
    flag: str = field(default="--data.path", kw_only=True)
    """That named them."""

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have several labels, or none."""
        return self.train.labels.ndim == 2

    def check_readable(self, reading: PixelReading, image_hw: tuple[int, int]) -> None:
        """UserError if no image of a class can be read, of those to train on or of those to validate on."""
        for what, images in (("to train on", self.train), ("to validate on", self.val)):
            classes = tracked(enumerate(self.classes), len(self.classes), f"looking at classes {what}")
            for number, name in classes:
                column = images.labels == number if images.labels.ndim == 1 else images.labels[:, number]
                places = np.flatnonzero(column)
                first = ""
                for place in places:
                    try:
                        center_crop(images.open(int(place), reading), image_hw)
                        break
                    except UnreadableImageError as error:
                        first = first or str(error)
                else:
                    if len(places):
                        raise UserError(
                            f"{self.flag} {self.name}: none of the {len(places)} images of the class {name} {what} can "
                            f"be read; the first: {first}"
                        )


@cache
def labeled_set(data: FinetuneDataConfig, seed: int) -> LabeledSet:
    """The images and labels that the settings name. The split depends on ``seed``, where none is given.

    Raises:
        UserError: no such source, no labels, fewer than two classes, a class with too few images, or classes of the
            images to validate on that those to train on lack.
    """
    if data.path is None:
        raise UserError(f"--data.path is missing: {ACCEPTED}")
    if data.path == PHOTOS:
        found = _split(PHOTOS, *_tiles(), data, seed)
    elif data.dataset is not None:
        found = _of_timm(data)
    elif may_hold_classes(data.path, data.access):
        found = _of_folder(data.path, data, seed)
    elif not Path(data.path).exists():
        raise UserError(f"--data.path {data.path} does not exist; {ACCEPTED}")
    elif is_table(data.path):
        found = _of_table(Path(data.path), data, seed)
    else:
        raise UserError(f"--data.path {data.path} is neither a folder nor a table; {ACCEPTED}")
    if len(found.classes) < 2 and not found.is_multi_label:
        raise UserError(
            f"{found.flag} {found.name} holds one class, {found.classes[0]}; at least two classes are needed"
        )
    if found.is_multi_label and found.train.labels.all():
        raise UserError(
            f"{found.flag} {found.name}: every image has all labels, {_some(found.classes)}; there is nothing to learn"
        )
    if data.train_share < 1:
        kept = share_of_each(found.train.labels, data.train_share, seed)
        found = replace(found, train=found.train.subset(kept))
    _warn_of_absent(found)
    return found


def share_of_each(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Places of a share of the images of every class, at least one, ascending; of a larger share more of the same."""
    random = np.random.default_rng(seed)
    groups = [np.arange(len(labels))] if labels.ndim == 2 else [np.flatnonzero(labels == c) for c in np.unique(labels)]
    kept = [random.permutation(places)[: max(1, round(share * len(places)))] for places in groups]
    return np.sort(np.concatenate(kept))


def _split(
    name: str, images: LabeledImages, classes: tuple[str, ...], data: FinetuneDataConfig, seed: int
) -> LabeledSet:
    """Hold out a share of every class; where an image has several, of all images."""
    labels = images.labels
    if labels.ndim == 2:
        train, val = stratified_split(np.zeros(len(labels), int), data.val_share, seed)
        if not len(val):
            raise UserError(f"--data.path {name} holds one image; to be split, at least 2 are needed")
    else:
        few = [classes[c] for c in np.flatnonzero(np.bincount(labels, minlength=len(classes)) < 2)]
        if few:
            raise UserError(
                f"--data.path {name}: to be split, a class needs at least 2 images; too few in {_some(few)}"
            )
        train, val = stratified_split(labels, data.val_share, seed)
    return LabeledSet(name, classes, images.subset(train), images.subset(val))


def _of_folder(folder: str, data: FinetuneDataConfig, seed: int) -> LabeledSet:
    """One folder for each class, also in archives."""
    found, *tests = class_parts(folder, access=data.access)
    names = tuple(found.places)
    if not tests:
        if len(names) < 2:
            raise UserError(f"--data.path {folder} holds one class, {names[0]}; {found.needed}")
        return _split(folder, of_files(*listed(found, names)), names, data, seed)
    val = tests[0]
    _check_known(sorted(val.places), names, val.where, found.where)
    return LabeledSet(folder, names, of_files(*listed(found, names)), of_files(*listed(val, names)))


def _check_known(of_val: Sequence[str], of_train: Sequence[str], val: str, train: str) -> None:
    if strangers := sorted(set(of_val) - set(of_train)):
        raise UserError(
            f"--data.path {val} has classes that {train} lacks: {_some(strangers)}; {train} has {_some(list(of_train))}"
        )


def of_files(files: ImageSet, labels: np.ndarray) -> LabeledImages:
    """Image files and their labels, int64 [N] or bool [N, C]."""
    return LabeledImages(partial(_open_file, files), files.names, labels, files)


def _of_table(file: Path, data: FinetuneDataConfig, seed: int) -> LabeledSet:
    for name, instead in (("column", "path_column"), ("split", "split_column")):
        if (value := getattr(data, name)) is not None:
            raise UserError(f"--data.{name} {value} is for tables of images; {file} lists paths: --data.{instead}")
    table = read_table(file, data.path_column, data.label_column, data.split_column)
    rows = table.rows
    classes = _in_order({label for row in rows for label in row.labels})
    if not classes:
        raise UserError(f"--data.path {file}: all labels are missing")
    chosen = next((name for name in TEST if any(row.split == name for row in rows)), None)
    held_out = [row for row in rows if chosen is not None and row.split == chosen]
    trained = [row for row in rows if row.split in TRAINING]
    if held_out and trained:
        used = {*(row.split for row in trained), chosen}
        if left := [row.split or "empty" for row in rows if row.split not in used]:
            logger.warning(
                "%s: %d of %d rows are neither trained nor validated on; their split is %s",
                file, len(left), len(rows), _some(sorted(set(left))),
            )  # fmt: skip
        of_train, of_val = ({label for row in part for label in row.labels} for part in (trained, held_out))
        classes = _in_order(of_train)
        _check_known(sorted(of_val), classes, f"{file}, split val,", "split train")
        parts = (_rows(part, classes, table.has_several) for part in (trained, held_out))
        return LabeledSet(str(file), classes, *parts)
    if any(row.split is not None for row in rows):
        values = sorted({str(row.split) for row in rows})
        raise UserError(
            f"--data.path {file}: its column of splits has {_some(values)}; it needs train and val, or take another "
            f"--data.split_column"
        )
    return _split(str(file), _rows(rows, classes, table.has_several), classes, data, seed)


def _rows(rows: Sequence[Row], classes: tuple[str, ...], several: bool) -> LabeledImages:
    number = {name: n for n, name in enumerate(classes)}
    if several:
        labels = np.zeros((len(rows), len(classes)), dtype=bool)
        for place, row in enumerate(rows):
            labels[place, [number[label] for label in row.labels]] = True
    else:
        labels = np.array([number[row.labels[0]] for row in rows], dtype=np.int64)
    paths = [Path(row.path) for row in rows]
    missing = [str(path) for path in paths if not path.exists()]
    if len(missing) == len(paths):
        raise UserError(f"--data.path: none of the {len(paths)} images in the table is there; the first: {missing[0]}")
    stats = [path.stat() if path.exists() else None for path in paths]
    stamps = [(0, 0) if one is None else (one.st_size, one.st_mtime_ns) for one in stats]
    return of_files(ImageFiles(paths, [row.name for row in rows], stamps), labels)


def _in_order(labels: set[str]) -> tuple[str, ...]:
    """Numbers by value, words by the alphabet."""
    numbers = all(label.lstrip("-").isdecimal() for label in labels)
    return tuple(in_natural_order(labels, str) if numbers else sorted(labels))


def _of_timm(data: FinetuneDataConfig) -> LabeledSet:
    parts, names = [], None
    for split in (data.train_split, data.val_split):
        try:
            dataset = create_dataset(
                data.dataset, root=str(data.path), split=split, is_training=False, download=data.download
            )
        except (Exception, AssertionError) as error:  # each underlying library raises its own errors
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"--data.dataset {data.dataset}, split {split}, in {data.path}: {reason}") from error
        if isinstance(dataset, IterableDataset):
            raise UserError(f"--data.dataset {data.dataset} is a stream, whose images cannot be taken by index")
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
                f"{_some(sorted(set(own) ^ set(names)))} in one of them only; the numbers of its labels differ"
            )
        names = names or own
        images = [f"{split}/{n}" for n in range(len(dataset))]
        parts.append(LabeledImages(partial(_open_item, dataset), images, labels.astype(np.int64)))
    count = 1 + max(int(part.labels.max()) for part in parts)
    classes = names if names is not None and len(names) >= count else tuple(map(str, range(count)))
    return LabeledSet(str(data.dataset), classes, *parts, flag="--data.dataset")


def _class_names(dataset: Any) -> tuple[str, ...] | None:
    numbers = getattr(getattr(dataset, "reader", None), "class_to_idx", None) or getattr(dataset, "class_to_idx", None)
    if isinstance(numbers, dict):
        return tuple(str(name) for name, _ in sorted(numbers.items(), key=lambda item: item[1]))
    names = getattr(dataset, "classes", None)
    return tuple(map(str, names)) if isinstance(names, list | tuple) else None


def _tiles() -> tuple[LabeledImages, tuple[str, ...]]:
    _, labels, photos = photo_tiles()
    names = [f"{PHOTOS}/{photos[label]}-{n}" for n, label in enumerate(labels)]
    return LabeledImages(_open_tile, names, labels), photos


def _warn_of_absent(found: LabeledSet) -> None:
    """A line for classes without images on one side."""
    for what, images in (("to train on", found.train), ("to validate on", found.val)):
        labels = images.labels
        counts = labels.sum(0) if labels.ndim == 2 else np.bincount(labels, minlength=len(found.classes))
        if absent := [found.classes[c] for c in np.flatnonzero(counts == 0)]:
            logger.warning("%s: no images %s of %d class(es): %s", found.name, what, len(absent), _some(absent))


def _some(names: Sequence[str]) -> str:
    return in_a_line(", ".join(names[:SHOWN])) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _open_chosen(inner: Open, chosen: list[int], index: int, reading: PixelReading) -> ImageFile:
    return inner(chosen[index], reading)


def _open_file(files: ImageSet, index: int, reading: PixelReading) -> ImageFile:
    return open_image(files[index], reading)


def _open_tile(index: int, reading: PixelReading) -> ImageFile:
    return _decoded(Path(f"{PHOTOS}/{index}"), reading, photo_tiles()[0][index], True, False)


def _open_item(dataset: Any, index: int, reading: PixelReading) -> ImageFile:
    name = Path(str(index))
    try:
        pixels = upright_pixels(item_of(dataset, index)[0])
    except Exception as error:  # what the dataset's own reader raises
        raise UnreadableImageError(f"image {index}: {' '.join(str(error).split())}") from error
    return _decoded(name, reading, *pixels)


def _decoded(name: Path, reading: PixelReading, array: np.ndarray, is_color: bool, has_alpha: bool) -> ImageFile:
    opened = in_memory(array, is_color, has_alpha)
    try:
        return ImageFile(name, opened, reading, fitted(opened, reading))
    except ValueError as error:
        raise UnreadableImageError(in_a_line(f"{name}: {error}")) from error

"""Labeled images, and those to train and to validate on, whatever they come from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from fcmae.data.crops import center_crop
from fcmae.data.images import ImageFile, UnreadableImageError, open_image
from fcmae.data.pixel_reading import PixelReading
from fcmae.data.reading.channels import fitted
from fcmae.data.reading.pillow import in_memory
from fcmae.data.sources.files import ImageFiles
from fcmae.data.sources.image_set import ImageSet, Labeled
from fcmae.errors import UserError, in_a_line
from fcmae.progress import tracked
from fcmae.runs.utf8_path import readable
from fcmae.wording import none_readable

SHOWN = 5  # names in a message
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
                        of_class = none_readable(len(places), first, of=f" of the class {name} {what}")
                        raise UserError(f"{self.flag} {self.name}: {of_class}")


def of_files(files: ImageSet, labels: np.ndarray) -> LabeledImages:
    """Image files and their labels, int64 [N] or bool [N, C]."""
    return LabeledImages(partial(_open_file, files), files.names, labels, files)


def some_of(names: Sequence[str]) -> str:
    """The first of these for a message, and how many more there are."""
    return in_a_line(readable(", ".join(names[:SHOWN]))) + (
        f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    )


def in_memory_image(name: Path, reading: PixelReading, array: np.ndarray, is_color: bool, has_alpha: bool) -> ImageFile:
    """An image that is decoded already; raises UnreadableImageError if it has other channels."""
    opened = in_memory(array, is_color, has_alpha)
    try:
        return ImageFile(name, opened, reading, fitted(opened, reading))
    except ValueError as error:
        raise UnreadableImageError(in_a_line(f"{name}: {error}")) from error


def _open_chosen(inner: Open, chosen: list[int], index: int, reading: PixelReading) -> ImageFile:
    return inner(chosen[index], reading)


def _open_file(files: ImageSet, index: int, reading: PixelReading) -> ImageFile:
    return open_image(files[index], reading)

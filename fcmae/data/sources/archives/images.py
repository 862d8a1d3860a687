"""Images in archives as a set."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fcmae.data.sources.archives.index import Index, index_of
from fcmae.data.sources.archives.member import Member
from fcmae.data.sources.entries import Survey
from fcmae.data.sources.image_set import ImageSet, Lazily, Stamp
from fcmae.data.sources.same import first_of_each, keys, number_of
from fcmae.data.stores.access import Access
from fcmae.data.stores.urls import is_url

CLASSES = "classes.txt"


@dataclass(frozen=True)
class ArchiveImages(ImageSet):
    """The images of one or several archives in natural order of their names, wherever each is."""

    listed: Index

    def __len__(self) -> int:
        return len(self.listed)

    def item(self, index: int) -> Member:
        """Where an image is."""
        return self.listed.member(index)

    def name(self, index: int) -> str:
        """Its name in the archive."""
        return self.listed.name(index)

    def stamp(self, index: int) -> Stamp:
        """Its size, and its archive's time."""
        number = self.listed.columns["archive"][index]
        return int(self.listed.columns["size"][index]), self.listed.stamps[number][1]

    def identities(self) -> np.ndarray:
        """The archive, and where the image begins in it."""
        numbers = np.array([number_of(path) for path in self.listed.archives], np.uint64)
        columns = self.listed.columns
        return keys(numbers[columns["archive"]], columns["offset"])

    def encoded_names(self, places: np.ndarray) -> Iterable[bytes]:
        """The names at some indices."""
        whole, ends = self.listed.columns["names"].tobytes(), self.listed.columns["name_end"]
        starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
        return (whole[start:end] for start, end in zip(starts[places].tolist(), ends[places].tolist(), strict=True))

    def stamps_at(self, places: np.ndarray) -> tuple[Iterable[int], Iterable[int]]:
        """Sizes, and times, at some indices."""
        columns, times = self.listed.columns, np.array([time for _, time in self.listed.stamps], np.int64)
        return columns["size"][places].tolist(), times[columns["archive"][places]].tolist()

    @property
    def is_far(self) -> bool:
        """Whether an archive comes by URL."""
        return any(map(is_url, self.listed.archives))

    @property
    def labels(self) -> Sequence[str] | None:
        """The texts of the ``.cls`` files beside the images (WebDataset), if every image has one.

        Numbers become names where ``classes.txt`` beside the archives, as ``fcmae pack`` writes it, has a line for
        each.
        """
        labels, classes = self.listed.columns["label"], _named(self.listed.classes, self.listed.archives)
        return Lazily(len(self), lambda n: classes[labels[n]]) if classes and (labels >= 0).all() else None

    @property
    def unlabeled(self) -> list[int]:
        """The images without a ``.cls`` file, if others have one."""
        return np.flatnonzero(self.listed.columns["label"] < 0).tolist() if self.listed.classes else []

    def fingerprint(self) -> tuple[str, str, str]:
        """As it was computed with the index."""
        return self.listed.fingerprint


def _named(classes: tuple[str, ...], archives: tuple[str, ...]) -> tuple[str, ...]:
    folders = {Path(archive).parent for archive in archives}
    if len(folders) != 1 or not all(one.isdecimal() for one in classes):
        return classes
    try:
        text = (folders.pop() / CLASSES).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return classes
    lines = text.removesuffix("\n").split("\n")  # splitlines divides names at other characters, too
    return tuple(lines[int(one)] for one in classes) if all(int(one) < len(lines) for one in classes) else classes


def archive_images(
    paths: Sequence[str], survey: Survey, beside: Path | None, access: Access | None = None
) -> ArchiveImages:
    """The images in archives; ``survey`` learns what else is in them. The rest as for :func:`index_of`."""
    once = first_of_each(paths, str)
    survey.repeated += len(paths) - len(once)
    found = index_of(once, beside, access)
    survey.add(found.survey)
    return ArchiveImages(found)

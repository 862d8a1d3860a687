"""One image file of a set, and a survey of everything else that the search found."""

import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from fcmae.data.endings import EXTENSIONS, ending_of
from fcmae.data.sources.archives.names import is_archive
from fcmae.data.sources.first_bytes import OTHERS, ending_for, first_bytes, is_dicom_without_image
from fcmae.data.zarr_folders import is_inside_zarr, metadata_of
from fcmae.errors import in_a_line
from fcmae.wording import counted

T = TypeVar("T")

NO_ENDING = "without an ending"
DICOM, NO_IMAGE = (".dcm", ".dicom", ""), "DICOM objects without an image"
DIGITS = re.compile(r"\d+")
ENDINGS, NAMED = 8, 5  # named in a line; the rest are counted
REMEMBERED = 1000
"""Images of archives that are not read and whose names are kept."""
KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Entry(NamedTuple):
    """An image file."""

    path: str
    name: str
    """Relative to its source: the same wherever the set lies."""
    size: int
    """Bytes."""
    mtime_ns: int
    device: int
    inode: int
    is_linked: bool
    """The file may have other names: it was reached by a symlink, or has hard links."""
    given: str | None = None
    """As :meth:`fcmae.data.sources.image_set.ImageSet.given`."""

    @property
    def identity(self) -> tuple[int, ...]:
        """Equal for two names of one file. Size and time guard against file systems that invent inodes."""
        return self.device, self.inode, self.size, self.mtime_ns


@dataclass
class Survey:
    """What a search for images found other than images."""

    passed_over: Counter[str] = field(default_factory=Counter)
    """Files that are not images by their names or first bytes: ending → count."""
    not_regular: dict[str, str] = field(default_factory=dict)
    """Path → what it is; never opened."""
    closed: dict[str, str] = field(default_factory=dict)
    """Folder that cannot be listed → why."""
    runs: list[str] = field(default_factory=list)
    """Run folders, left out."""
    tables: int = 0
    """Parquet and Arrow files among the sources."""
    archives: list[str] = field(default_factory=list)
    """Archives, passed over where there are image files."""
    damaged: dict[str, str] = field(default_factory=dict)
    """Archive → what is wrong with it; what is whole of it is used."""
    zarrs: set[str] = field(default_factory=set)
    """OME-Zarr images in archives and behind URLs, where they are not read."""
    repeated: int = 0
    """Additional names of files that are already in the set."""

    def refuse(self, path: str, why: str) -> None:
        """Note an image that is not read: the first ones by name."""
        if len(self.not_regular) < REMEMBERED:
            self.not_regular[path] = why
        else:
            self.passed_over[f"images ({why})"] += 1

    def add(self, other: "Survey") -> None:
        """What another search in archives has found."""
        self.passed_over.update(other.passed_over)
        for path, why in other.not_regular.items():
            self.refuse(path, why)
        self.damaged.update(other.damaged)
        self.zarrs.update(other.zarrs)
        self.repeated += other.repeated

    def lines(self) -> list[str]:
        """One line for each kind of finding, for the log."""
        found = []
        if self.passed_over:
            endings = ", ".join(f"{count:,} {ending}" for ending, count in self.passed_over.most_common(ENDINGS))
            more = sum(self.passed_over.values()) - sum(n for _, n in self.passed_over.most_common(ENDINGS))
            found.append(
                f"passed over, no images that can be read: {endings}" + f", {counted(more, 'other')}" * (more > 0)
            )
        for what, met in (
            ("skipped, cannot be read", self.not_regular),
            ("cannot be listed", self.closed),
            ("damaged archives", self.damaged),
        ):
            if met:
                first = ", ".join(f"{path} ({reason})" for path, reason in list(met.items())[:NAMED])
                more = len(met) - NAMED
                found.append(f"{what}: {first}" + f" and {more:,} more" * (more > 0))
        if self.zarrs:
            first, more = ", ".join(in_natural_order(self.zarrs, str)[:NAMED]), len(self.zarrs) - NAMED
            found.append(
                f"OME-Zarr in archives and by URL is not read; unpack or download it: {first}"
                + f" and {more:,} more" * (more > 0)
            )
        if self.runs:
            more = len(self.runs) - NAMED
            found.append(f"run folders left out: {', '.join(self.runs[:NAMED])}" + f" and {more:,} more" * (more > 0))
        if self.repeated:
            found.append(further_names(self.repeated))
        return [in_a_line(line) for line in found]


def further_names(count: int) -> str:
    """What a line says about names of files, other than the first of each."""
    names = counted(count, "further name")
    return f"{names} (links, or given twice) of files in the set {'is' if count == 1 else 'are'} left out"


def kind(mode: int) -> str:
    """What a file with this ``st_mode`` is."""
    return KINDS.get(stat.S_IFMT(mode), "no regular file")


def entry(path: str, name: str, survey: Survey, *, is_linked: bool = False, is_expected: bool = False) -> Entry | None:
    """The image file at a path. None, and a note in the survey, if it is none, or no regular file.

    It is an image by its ending, or by its first bytes if the ending is missing or unknown. With ``is_expected`` a file
    that is not there is noted whatever its ending.
    """
    ending = ending_of(name)
    try:
        found = os.stat(path)
    except OSError as error:
        if ending in EXTENSIONS or is_expected:
            survey.not_regular[path] = "a broken link" if os.path.islink(path) else str(error.strerror)
        return None
    if not stat.S_ISREG(found.st_mode):
        if ending in EXTENSIONS or is_expected:
            survey.not_regular[path] = kind(found.st_mode)
        return None
    if is_archive(name):
        survey.archives.append(path)
    if ending in DICOM or ending not in EXTENSIONS:
        head = b"" if ending in OTHERS else first_bytes(path)
        if is_dicom_without_image(head):
            survey.passed_over[NO_IMAGE] += 1
            return None
        if ending not in EXTENSIONS and ending_for(head) not in EXTENSIONS:
            survey.passed_over[ending or NO_ENDING] += 1
            return None
    linked = is_linked or found.st_nlink > 1
    return Entry(path, name, found.st_size, found.st_mtime_ns, found.st_dev, found.st_ino, linked)


def folder_entry(path: str, name: str, *, is_linked: bool = False) -> Entry | None:
    """The image that a folder is (OME-Zarr), with the size and time of its metadata; None if it is none."""
    if not is_inside_zarr(path) or (metadata := metadata_of(path)) is None:
        return None
    found = os.stat(metadata)
    return Entry(path, name, found.st_size, found.st_mtime_ns, found.st_dev, found.st_ino, is_linked)


def in_natural_order(items: Iterable[T], name: Callable[[T], str]) -> list[T]:
    """Items by :func:`natural_key` of their names; of those that differ in case or zeros alone, by the names."""
    ordered = sorted(items, key=name)
    ordered.sort(key=lambda one: natural_key(name(one)))
    return ordered


def natural_key(text: str) -> str:
    """Sort key that puts 9 before 10, without regard to case.

    Each number becomes a zero character, its count of digits, and its digits: one string, because a million lists take
    much memory.
    """
    return DIGITS.sub(_number_key, text.lower())


def _number_key(found: re.Match[str]) -> str:
    digits = found.group()
    if not digits.isascii():
        digits = "".join(str(unicodedata.digit(one)) for one in digits)
    digits = digits.lstrip("0")
    return f"\0{chr(len(digits) + 1)}{digits}"

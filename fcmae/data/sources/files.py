"""The images of a set: a sequence of files by index, each with a name that stays the same wherever the set lies."""

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from fcmae.data.rows.files import is_row_file
from fcmae.data.sources.archives.names import expanded, is_archive
from fcmae.data.sources.entries import Entry, Survey
from fcmae.data.sources.image_set import ImageSet, Joined, Stamp
from fcmae.data.sources.lists import is_list
from fcmae.data.sources.same import number, number_of, places_once
from fcmae.data.sources.source import images_of
from fcmae.data.stores.access import Access
from fcmae.data.stores.images import Texts
from fcmae.data.stores.urls import is_url, shown
from fcmae.errors import UserError

logger = logging.getLogger(__name__)

OF_SYSTEM = ("lost+found",)
"""Folders that nobody may list, on top of a disk."""
PathLike = str | os.PathLike[str]


class ImageFiles(ImageSet):
    """Image files in training order. Their names are relative to the source: of a folder its subfolders and a file."""

    def __init__(
        self, paths: list[Path], names: list[str], stamps: list[Stamp], given: Sequence[str] | None = None,
        may_have_links: bool = True,
    ) -> None:  # fmt: skip
        self.paths, self._names, self._stamps, self._given = paths, names, stamps, given
        self._may_have_links = may_have_links

    @property
    def names(self) -> list[str]:
        """The name of each."""
        return self._names

    @property
    def stamps(self) -> list[Stamp]:
        """The stamp of each."""
        return self._stamps

    def item(self, index: int) -> Path:
        """The file at an index from 0."""
        return self.paths[index]

    def name(self, index: int) -> str:
        """Its name."""
        return self._names[index]

    def given(self, index: int) -> str | None:
        """As listed; None: in a single folder."""
        return None if self._given is None else self._given[index]

    def identities(self) -> np.ndarray:
        """Equal for all names of a file."""
        return np.fromiter(map(number_of, self.paths), np.uint64, len(self))

    @property
    def may_have_links(self) -> bool:
        """Whether any of them was reached by a symlink, or has hard links; unless it was listed, True."""
        return self._may_have_links

    def stamp(self, index: int) -> Stamp:
        """Its size and time."""
        return self._stamps[index]

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, indices: Iterable[int]) -> "ImageFiles":
        """Some of the files, in the order of ``indices``."""
        chosen = list(indices)
        return ImageFiles(
            [self.paths[i] for i in chosen], [self.names[i] for i in chosen], [self.stamps[i] for i in chosen],
            None if self._given is None else Texts(self._given[i] for i in chosen), self._may_have_links,
        )  # fmt: skip


def collect(
    sources: PathLike | Sequence[PathLike],
    *,
    leave_out: Path | None = None,
    by_class: bool = False,
    flag: str = "--data.path",
    access: Access | None = None,
) -> ImageSet:
    """The images of folders, globs, lists of paths and archives, each file once.

    Folders are in natural order of their paths, lists in their own, neighboring archives in natural order of their
    members' names, sources in the order given. The log names what was left out: one line each for unknown endings, for
    what is not a regular file, and for run folders.

    Args:
        sources: one or several of: a folder; a pattern with ``*``, ``?``, ``[…]`` or ``**``; a .txt, .lst, .csv or .tsv
            file of paths; a .tar, .zip or .parquet, of which ``shards-{000..127}.tar`` means many; any of these by
            URL, or ``hf:owner/name``. Among several, image files too.
        leave_out: a run folder, left out like any other that lies inside a source.
        by_class: a file may be in several direct subfolders, once in each; and no folder may be closed.
        flag: option name used in messages.
        access: how URLs and tables are read; None: as by default.

    Raises:
        UserError: a source that does not exist, is of another kind, or holds no images; an option for tables where
            there is none; with ``by_class`` a folder that cannot be listed.
    """
    given = [os.fspath(sources)] if isinstance(sources, str | os.PathLike) else [os.fspath(one) for one in sources]
    named, given = given, expanded(given)
    survey, access = Survey(), access or Access()
    grouped = _grouped(given)
    parts = [images_of(source, survey, leave_out, flag, access) for source in grouped]
    if not survey.tables and (unused := access.of_tables):
        where = " ".join(named[:3]) + " …" * (len(named) > 3)
        raise UserError(f"{unused} is for Parquet and Arrow files, of which {flag} {where} has none; leave it out")
    files = [(n, one) for n, part in enumerate(parts) if not isinstance(part, ImageSet) for one in part]
    closed = [(folder, why) for folder, why in survey.closed.items() if os.path.basename(folder) not in OF_SYSTEM]
    if by_class and closed:
        folder, why = closed[0]
        raise UserError(f"{flag} {folder} cannot be listed ({why}); a class would lack its images")
    called = [_called(source) for source in grouped]
    if len(given) > 1 or not os.path.isdir(given[0]) or any(one.is_linked for _, one in files):
        files = _once(files, by_class, survey)
    images: ImageSet
    if any(isinstance(part, ImageSet) for part in parts):
        each = [[one for m, one in files if m == n] if isinstance(part, list) else part for n, part in enumerate(parts)]
        images = _joined(each, called, by_class, survey)
    else:
        images = _image_files([_numbered(one, n, called[n]) if len(parts) > 1 else one for n, one in files])
    for line in survey.lines():
        logger.info("%s: %s", " ".join(named[:3]) + " …" * (len(named) > 3), line)
    return images


def _joined(
    parts: Sequence[list[Entry] | ImageSet], called: Sequence[str | None], by_class: bool, survey: Survey
) -> ImageSet:
    """Files and other sets as one, each image once."""
    sets = [part if isinstance(part, ImageSet) else _image_files(part) for part in parts]
    if len(sets) == 1:
        return sets[0]
    if not by_class:
        kept = places_once([
            part.identities()
            if isinstance(part, ImageSet)
            else np.fromiter((number(one.identity) for one in part), np.uint64, len(part))
            for part in parts
        ])  # fmt: skip
        survey.repeated += sum(map(len, sets)) - sum(map(len, kept))
        sets = [one if len(one) == len(places) else one.subset(places) for one, places in zip(sets, kept, strict=True)]
    return Joined(sets, called)


def _image_files(entries: Sequence[Entry]) -> ImageFiles:
    return ImageFiles(
        [Path(one.path) for one in entries],
        [one.name for one in entries],
        [(one.size, one.mtime_ns) for one in entries],
        Texts(given) if len(given := [one.given for one in entries if one.given is not None]) == len(entries) else None,
        any(one.is_linked for one in entries),
    )


def _numbered(one: Entry, number: int, source: str | None) -> Entry:
    """An image of one of several sources; ``source`` is what the user called that."""
    given = os.path.join(source, one.name) if one.given is None and source is not None else one.given
    return one._replace(name=f"{number}/{one.name}", given=given)


def _grouped(given: Sequence[str]) -> list[str | list[str]]:
    """Neighboring image files, as a shell makes them of a pattern, become one source; so do archives, and tables."""
    grouped: list[str | list[str]] = []
    for source in given:
        is_remote = is_url(source) and is_archive(source)
        if len(given) == 1 or not (is_remote or os.path.isfile(source)) or is_list(source):
            grouped.append(source)
        elif grouped and isinstance(grouped[-1], list) and _are_alike(grouped[-1][-1], source):
            grouped[-1].append(source)
        else:
            grouped.append([source])
    return grouped


def _are_alike(one: str, other: str) -> bool:
    return all(is_so(one) == is_so(other) for is_so in (is_archive, is_url, is_row_file))


def _called(source: str | list[str]) -> str | None:
    """What the user called a source; None: it is several neighbors."""
    if isinstance(source, list) and len(source) > 1:
        return None
    single = source if isinstance(source, str) else source[0]
    return shown(single) if is_url(single) else single


def _once(entries: Sequence[tuple[int, Entry]], by_class: bool, survey: Survey) -> list[tuple[int, Entry]]:
    """The first of all names of a file, each with the number of its source."""
    seen: set[object] = set()
    kept = []
    for n, one in entries:
        key = (one.identity, one.name.partition(os.sep)[0]) if by_class else one.identity
        if key not in seen:
            seen.add(key)
            kept.append((n, one))
    survey.repeated += len(entries) - len(kept)
    return kept

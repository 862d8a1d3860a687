"""The images of a set: a sequence of files by index, each with a name that stays the same wherever the set lies."""

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from fcmae.data.sources.entries import Entry, Survey
from fcmae.data.sources.lists import is_list
from fcmae.data.sources.source import entries_of

logger = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class ImageFiles(Sequence[Path]):
    """Image files in training order."""

    paths: list[Path]
    names: list[str]
    """Relative to the source: of a folder its subfolders and the file's name."""
    stamps: list[tuple[int, int]]
    """Size in bytes, and time of the last change in nanoseconds."""

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> list[Path]: ...
    def __getitem__(self, index: int | slice) -> Path | list[Path]:
        return self.paths[index]

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, indices: Iterable[int]) -> "ImageFiles":
        """Some of the files, in the order of ``indices``."""
        chosen = list(indices)
        return ImageFiles(
            [self.paths[i] for i in chosen], [self.names[i] for i in chosen], [self.stamps[i] for i in chosen]
        )


def collect(
    sources: PathLike | Sequence[PathLike],
    *,
    leave_out: Path | None = None,
    by_class: bool = False,
    flag: str = "--data.path",
) -> ImageFiles:
    """The images of folders, globs and lists of paths, each file once.

    Folders are in natural order of their paths, lists in their own, sources in the order given. The log names what
    was left out: one line each for unknown endings, for what is not a regular file, and for run folders.

    Args:
        sources: one or several of: a folder; a pattern with ``*``, ``?``, ``[…]`` or ``**``; a .txt, .lst, .csv or .tsv
            file of paths. Among several, image files too.
        leave_out: a run folder, left out like any other that lies inside a source.
        by_class: a file may be in several direct subfolders, once in each.
        flag: option name used in messages.

    Raises:
        UserError: a source that does not exist, is of another kind, or holds no images.
    """
    given = [os.fspath(sources)] if isinstance(sources, str | os.PathLike) else [os.fspath(one) for one in sources]
    survey = Survey()
    parts = [entries_of(source, survey, leave_out, flag) for source in _grouped(given)]
    if len(parts) > 1:
        parts = [[one._replace(name=f"{n}/{one.name}") for one in part] for n, part in enumerate(parts)]
    entries = [one for part in parts for one in part]
    if len(given) > 1 or not os.path.isdir(given[0]) or any(one.is_linked for one in entries):
        entries = _once(entries, by_class, survey)
    for line in survey.lines():
        logger.info("%s: %s", " ".join(given[:3]) + " …" * (len(given) > 3), line)
    return ImageFiles(
        [Path(one.path) for one in entries],
        [one.name for one in entries],
        [(one.size, one.mtime_ns) for one in entries],
    )


def _grouped(given: Sequence[str]) -> list[str | list[str]]:
    """Neighboring image files, as a shell makes them of a pattern, become one source."""
    grouped: list[str | list[str]] = []
    for source in given:
        if len(given) == 1 or not os.path.isfile(source) or is_list(source):
            grouped.append(source)
        elif grouped and isinstance(grouped[-1], list):
            grouped[-1].append(source)
        else:
            grouped.append([source])
    return grouped


def _once(entries: Sequence[Entry], by_class: bool, survey: Survey) -> list[Entry]:
    """The first of all names of a file."""
    seen: set[object] = set()
    kept = []
    for one in entries:
        key = (one.identity, one.name.partition(os.sep)[0]) if by_class else one.identity
        if key not in seen:
            seen.add(key)
            kept.append(one)
    survey.repeated += len(entries) - len(kept)
    return kept

"""The parts of a labeled source: what to train on and, where the source tells them apart, what to test on."""

import glob
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import NamedTuple

from fcmae.data.rows.files import is_row_file, open_rows
from fcmae.data.rows.images import RowImages
from fcmae.data.sources.archives.images import ArchiveImages
from fcmae.data.sources.archives.names import expanded, is_archive
from fcmae.data.sources.files import ImageFiles, collect
from fcmae.data.sources.image_set import ImageSet
from fcmae.data.sources.lists import is_list
from fcmae.data.splits import TEST, TRAINING, are_splits, split_folders
from fcmae.data.stores.access import Access
from fcmae.data.stores.urls import is_url, shown
from fcmae.errors import UserError, in_a_line
from fcmae.runs.layout import is_run_folder

logger = logging.getLogger(__name__)


class Part(NamedTuple):
    """Images of a source."""

    where: str
    """For messages; of image files their folder."""
    images: ImageSet
    skipped: int = 0
    """Characters of the names before the folders of classes."""
    is_whole: bool = False
    """Whether there is no other part."""


Source = str | Path | Sequence[str]
"""One source, or several."""


def each_of(source: Source) -> list[str]:
    """The sources one by one."""
    return [str(source)] if isinstance(source, str | Path) else list(source)


def no_labels(images: ImageSet) -> str:
    """For a message about a source: that it has no column of labels, and what to do."""
    unfit = images.unfit_labels if isinstance(images, RowImages) else ""
    return f"has no column of labels{f': {unfit}' if unfit else ''}; name it label, or give --data.label_column"


def named(source: Source) -> str:
    """The sources for messages."""
    return ",".join(map(shown, each_of(source)))


def may_hold_classes(source: str, access: Access | None = None) -> bool:
    """Whether it is of a kind that :func:`source_parts` takes: a folder, archives, tables of images, image files by a
    pattern, or a URL."""
    if os.path.isfile(source) and is_row_file(source):
        access = access or Access()
        column = open_rows(source, access.column, access).column
        return column is not None and column.has_bytes
    if is_list(source) and not os.path.isdir(source):
        return False
    is_range = expanded([source]) != [source]
    is_pattern = (glob.has_magic(source) or is_range) and not os.path.lexists(source)
    return os.path.isdir(source) or is_archive(source) or is_pattern or is_url(source)


def source_parts(source: Source, flag: str = "--data.path", access: Access | None = None) -> list[list[Part]]:
    """The images to train on and, where folders tell them apart, those to test on; of each source in turn. Tables
    beside each other are one part, which :func:`parts_by_name` divides.

    Raises:
        UserError: there are no images, of shards some have a class and others none, or one of several sources has
            parts to train and to test on and another has not.
    """
    access, given = replace(access or Access(), all_splits=True), each_of(source)
    if len(given) > 1 and all(map(os.path.isfile, expanded(given))):
        return [[part] for part in _parts(given, flag, access)]
    each = [_parts([one], flag, access) for one in given]
    if len({len(parts) for parts in each}) > 1:
        kinds = {len(parts): shown(one) for one, parts in zip(given, each, strict=True)}
        raise UserError(f"{flag} {kinds[2]} has images to train and to test on apart, but {kinds[1]} has not")
    return [list(parts) for parts in zip(*each, strict=True)]


def _parts(given: list[str], flag: str, access: Access) -> list[Part]:
    """The parts of a source, or of files that make one."""
    folder, where = Path(given[0]), ",".join(given)
    if len(given) == 1 and (splits := _split_folders(folder)):
        paths = [folder / name for name in splits]
        found = [collect(path, by_class=True, flag=flag, access=access) for path in paths]
        for images, path in zip(found, paths, strict=True):
            _check_all_labeled(images, path, flag)
        return [Part(str(path), images) for path, images in zip(paths, found, strict=True)]
    images = collect(given, by_class=True, flag=flag, access=access)
    if isinstance(images, RowImages):
        return [Part(named(given), images, is_whole=True)]
    _check_all_labeled(images, where, flag)
    if images.labels is not None or (isinstance(images, ImageFiles) and folder.is_dir()):
        return [Part(where, images, is_whole=True)]
    names, common = list(images.names), ""
    while len(tops := {name.partition("/")[0] for name in names}) == 1 and any(name.count("/") > 1 for name in names):
        common += f"{tops.pop()}/"  # a folder that was packed with its own name
        names = [name.partition("/")[2] for name in names]
    if (inside := split_folders(tops)) is None:
        return [Part(where, images, len(common), is_whole=True)]
    _say_left_out(f"{named(given)}/{common}".rstrip("/"), tops, inside)
    return [
        Part(
            f"{where}/{common}{part}",
            images.subset(n for n, name in enumerate(names) if name.startswith(f"{part}/")),
            len(f"{common}{part}/"),
        )
        for part in inside
    ]


def rows_of(parts: list[list[Part]], flag: str = "--data.path") -> list[RowImages]:
    """The same where they are rows of tables, one set for those to train on and one for those to test on; else empty.

    Raises:
        UserError: tables and other sources.
    """
    found = [[part.images for part in side if isinstance(part.images, RowImages)] for side in parts]
    if sum(map(len, found)) not in (0, sum(map(len, parts))):
        other = next(part.where for side in parts for part in side if not isinstance(part.images, RowImages))
        raise UserError(f"{flag} {other} is no table of images, as the other sources are; give sources of one kind")
    return [reduce(RowImages.with_rows_of, side) for side in found if side]


def parts_by_name(images: RowImages) -> list[RowImages]:
    """Tables to train on and to test on, if the names of the files tell them apart; else all."""
    trained = next((part for name in TRAINING if (part := images.of_split(name))), None)
    tested = next((part for name in TEST if (part := images.of_split(name))), None)
    return [trained.once(), tested.once()] if trained and tested else [images.once()]


def _split_folders(folder: Path) -> tuple[str, str] | None:
    """The subfolders to train on and to test on, if there are; such that hold classes or packed images, if some do."""
    names = [one.name for one in folder.iterdir() if one.is_dir()] if folder.is_dir() else []
    full = [name for name in names if are_splits([name]) and _holds_a_set(folder / name)]
    splits = split_folders(full) or (split_folders(names) if are_splits(names) else None)
    if splits is not None:
        others = [name for name in names if not name.startswith(".") and not is_run_folder(folder / name)]
        _say_left_out(str(folder), others, splits)
    return splits


def _say_left_out(where: str, names: Iterable[str], used: tuple[str, str]) -> None:
    """A line for folders beside the two parts, such as a test/ beside train/ and val/."""
    if others := sorted(set(names) - set(used)):
        listed = in_a_line(", ".join(others[:5]) + " …" * (len(others) > 5))
        logger.info("%s: %s and %s are used; left out: %s", in_a_line(where), *used, listed)


def _holds_a_set(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(one.is_dir() or is_archive(one.name) or is_row_file(one.name) for one in entries)
    except OSError:
        return True  # what cannot be listed is named when it is read


def _check_all_labeled(images: ImageSet, source: str | Path, flag: str) -> None:
    """UserError for shards of which some images have a class and others none: folders would not tell it instead."""
    if isinstance(images, ArchiveImages) and (without := images.unlabeled):
        raise UserError(
            f"{flag} {shown(str(source))}: {images.item(without[0])} has no .cls file with its class; "
            f"{len(without):,} of {len(images):,} images lack one"
        )

"""The parts of a labeled source: what to train on and, where the source tells them apart, what to test on."""

import glob
import os
from dataclasses import replace
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
from fcmae.errors import UserError

NO_LABELS = "has no column of labels; name it label, or give --data.label_column"


class Part(NamedTuple):
    """Images of a source."""

    where: str
    """For messages; of image files their folder."""
    images: ImageSet
    skipped: int = 0
    """Characters of the names before the folders of classes."""
    is_whole: bool = False
    """Whether there is no other part."""


def may_hold_classes(source: str, access: Access | None = None) -> bool:
    """Whether it is of a kind that :func:`source_parts` takes: a folder, archives, tables of images, or a URL."""
    if os.path.isfile(source) and is_row_file(source):
        access = access or Access()
        column = open_rows(source, access.column, access).column
        return column is not None and column.has_bytes
    is_several_tables = is_row_file(source) and (glob.has_magic(source) or expanded([source]) != [source])
    is_named = os.path.isdir(source) or is_archive(source) or (is_several_tables and not os.path.exists(source))
    return is_named or (is_url(source) and not is_list(source))


def source_parts(source: str | Path, flag: str = "--data.path", access: Access | None = None) -> list[Part]:
    """The images to train on and, where folders tell them apart, those to test on. Tables beside each other are one
    part, which :func:`parts_by_name` divides.

    Raises:
        UserError: there are no images, or of shards some have a class and others none.
    """
    folder, access = Path(source), replace(access or Access(), all_splits=True)
    if named := _split_folders(folder):
        splits = [folder / name for name in named]
        found = [collect(part, by_class=True, flag=flag, access=access) for part in splits]
        for images, split in zip(found, splits, strict=True):
            _check_all_labeled(images, split, flag)
        return [Part(str(split), images) for split, images in zip(splits, found, strict=True)]
    images = collect(str(source), by_class=True, flag=flag, access=access)
    if isinstance(images, RowImages):
        return [Part(shown(str(source)), images, is_whole=True)]
    _check_all_labeled(images, source, flag)
    if images.labels is not None or isinstance(images, ImageFiles):
        return [Part(str(source), images, is_whole=True)]
    names, common = list(images.names), ""
    while len(tops := {name.partition("/")[0] for name in names}) == 1 and any(name.count("/") > 1 for name in names):
        common += f"{tops.pop()}/"  # a folder that was packed with its own name
        names = [name.partition("/")[2] for name in names]
    if (inside := split_folders(tops)) is None:
        return [Part(str(source), images, len(common), is_whole=True)]
    return [
        Part(
            f"{source}/{common}{part}",
            images.subset(n for n, name in enumerate(names) if name.startswith(f"{part}/")),
            len(f"{common}{part}/"),
        )
        for part in inside
    ]


def parts_by_name(images: RowImages) -> list[RowImages]:
    """Tables to train on and to test on, if the names of the files tell them apart; else all."""
    trained = next((part for name in TRAINING if (part := images.of_split(name))), None)
    tested = next((part for name in TEST if (part := images.of_split(name))), None)
    return [trained, tested] if trained and tested else [images]


def _split_folders(folder: Path) -> tuple[str, str] | None:
    """The subfolders to train on and to test on, if there are; such that hold classes or packed images, if some do."""
    names = [one.name for one in folder.iterdir() if one.is_dir()] if folder.is_dir() else []
    full = [name for name in names if are_splits([name]) and _holds_a_set(folder / name)]
    return split_folders(full) or (split_folders(names) if are_splits(names) else None)


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

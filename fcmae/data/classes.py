"""Folders of classes: which image files have which label, and in which split. Without torch, which takes seconds."""

import glob
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fcmae.data.folder import equal_shares
from fcmae.data.rows.files import is_row_file, open_rows
from fcmae.data.rows.images import RowImages
from fcmae.data.sources.archives.images import ArchiveImages
from fcmae.data.sources.archives.names import expanded, is_archive
from fcmae.data.sources.entries import in_natural_order
from fcmae.data.sources.files import ImageFiles, collect
from fcmae.data.sources.image_set import ImageSet
from fcmae.data.sources.lists import is_list
from fcmae.data.splits import TEST, TRAIN, TRAINING, are_splits, split_folders
from fcmae.data.stores.access import Access
from fcmae.data.stores.urls import is_url, shown
from fcmae.errors import UserError, in_a_line

logger = logging.getLogger(__name__)


class LabeledFiles(NamedTuple):
    """Image files and their classes."""

    paths: ImageSet
    labels: np.ndarray
    """int64 [N]; classes are numbered in order of their names."""


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


def class_folder(
    folder: str | Path,
    test_share: float = 0.2,
    seed: int = 0,
    limit: int | None = None,
    flag: str = "--data.path",
    access: Access | None = None,
) -> tuple[LabeledFiles, LabeledFiles]:
    """The train and the test split of a folder; arguments and errors as :func:`fcmae.data.labeled.labeled_folder`.

    ``access`` says how URLs and tables are read; None: as by default.
    """
    if not may_hold_classes(str(folder), access):
        what = "is not a folder" if Path(folder).exists() else "does not exist"
        raise UserError(
            f"{flag} {folder} {what}; give a folder with one subfolder of images per class, such a .tar or .zip, "
            f"a .parquet file with labels, or a URL of these"
        )
    train, *tests = class_parts(folder, flag, access)
    names = list(train.places)
    if tests:
        if strangers := sorted(tests[0].places.keys() - train.places.keys()):
            raise UserError(
                f"{flag} {tests[0].where} has classes that {train.where} lacks: {in_a_line(', '.join(strangers[:5]))}"
            )
        parts = listed(train, names), listed(tests[0], names)
    elif few := [name for name in names if len(train.places[name]) < 2]:
        raise UserError(
            f"{flag} {folder}: to be split, a class needs at least 2 images; too few in {in_a_line(', '.join(few[:5]))}"
        )
    else:
        whole = listed(train, names)
        first, second = stratified_split(whole.labels, test_share, seed)
        parts = _chosen(whole, first), _chosen(whole, second)
    if len(names) < 2:
        raise UserError(f"{flag} {folder} holds one class, {in_a_line(names[0])}; {train.needed}")
    train_files, test_files = (_chosen(part, limited(part.labels, limit, seed)) for part in parts)
    return train_files, test_files


def _chosen(files: LabeledFiles, places: np.ndarray) -> LabeledFiles:
    return LabeledFiles(files.paths.subset(places), files.labels[places])


class ClassFolders(NamedTuple):
    """Images with one folder per class."""

    where: str
    images: ImageSet
    places: dict[str, np.ndarray]
    """Class → the indices of its images, in order of the classes."""
    is_labeled: bool = False
    """Whether the source itself says the labels, not its folders."""

    @property
    def needed(self) -> str:
        """For a message about one class."""
        folders = "it needs a subfolder for each class, and at least two of them (or train/ and val/ that contain them)"
        return "its labels need at least two" if self.is_labeled else folders


def may_hold_classes(source: str, access: Access | None = None) -> bool:
    """Whether it is of a kind that :func:`class_parts` takes: a folder, archives, tables of images, or a URL."""
    if os.path.isfile(source) and is_row_file(source):
        access = access or Access()
        column = open_rows(source, access.column, access).column
        return column is not None and column.has_bytes
    is_several_tables = is_row_file(source) and (glob.has_magic(source) or expanded([source]) != [source])
    is_named = os.path.isdir(source) or is_archive(source) or (is_several_tables and not os.path.exists(source))
    return is_named or (is_url(source) and not is_list(source))


def class_parts(source: str | Path, flag: str = "--data.path", access: Access | None = None) -> list[ClassFolders]:
    """The images to train on and, where the source has ``train/`` and ``val/``, those to test on.

    Raises:
        UserError: there are no classes.
    """
    folder, access = Path(source), replace(access or Access(), all_splits=True)
    if named := _split_folders(folder):
        splits = [folder / name for name in named]
        parts = [collect(part, by_class=True, flag=flag, access=access) for part in splits]
        for images, split in zip(parts, splits, strict=True):
            _check_all_labeled(images, split, flag)
        return [_of_one(images, split, flag) for images, split in zip(parts, splits, strict=True)]
    images = collect(str(source), by_class=True, flag=flag, access=access)
    if isinstance(images, RowImages):
        return _of_rows(images, str(source), flag)
    _check_all_labeled(images, source, flag)
    if images.labels is not None or isinstance(images, ImageFiles):
        return [_not_of_splits(_of_one(images, folder, flag), flag)]
    names, common = list(images.names), ""
    while len(tops := {name.partition("/")[0] for name in names}) == 1 and any(name.count("/") > 1 for name in names):
        common += f"{tops.pop()}/"  # a folder that was packed with its own name
        names = [name.partition("/")[2] for name in names]
    if (named := split_folders(tops)) is None:
        return [_not_of_splits(_by_folder(images, str(source), flag, len(common)), flag)]
    found = []
    for part in named:
        inside = images.subset(n for n, name in enumerate(names) if name.startswith(f"{part}/"))
        found.append(_by_folder(inside, f"{source}/{common}{part}", flag, len(f"{common}{part}/")))
    return found


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


def _not_of_splits(found: ClassFolders, flag: str) -> ClassFolders:
    """UserError where the folders that were taken for classes are parts of a set, such as val/ and test/ alone."""
    if not found.is_labeled and len(found.places) > 1 and are_splits(found.places):
        raise UserError(
            f"{flag} {found.where} has {', '.join(f'{name}/' for name in found.places)}: parts of a set, not classes; "
            f"one to train on must be {TRAIN}/, beside val/ or test/"
        )
    return found


def _check_all_labeled(images: ImageSet, source: str | Path, flag: str) -> None:
    """UserError for shards of which some images have a class and others none: folders would not tell it instead."""
    if isinstance(images, ArchiveImages) and (without := images.unlabeled):
        raise UserError(
            f"{flag} {shown(str(source))}: {images.item(without[0])} has no .cls file with its class; "
            f"{len(without):,} of {len(images):,} images lack one"
        )


def _of_rows(images: RowImages, source: str, flag: str) -> list[ClassFolders]:
    """By the column of labels; to train on and to test on by the names of the files."""
    trained = next((part for name in TRAINING if (part := images.of_split(name))), None)
    tested = next((part for name in TEST if (part := images.of_split(name))), None)
    found = [trained, tested] if trained and tested else [images]
    where = (f"{shown(source)}, split {what}," if len(found) > 1 else shown(source) for what in (TRAIN, "test"))
    return [_labeled_rows(part, named, shown(source), flag) for part, named in zip(found, where, strict=False)]


def _labeled_rows(images: RowImages, where: str, source: str, flag: str) -> ClassFolders:
    if (labels := images.labels) is None:
        raise UserError(f"{flag} {source} has no column of labels; name it label, or give --data.label_column")
    return _by_label(images, labels, where)


def _of_one(images: ImageSet, folder: Path, flag: str) -> ClassFolders:
    if isinstance(images, RowImages):
        return _labeled_rows(images, str(folder), str(folder), flag)
    if images.labels is not None:
        return _by_label(images, images.labels, str(folder))
    found = _by_folder(images, str(folder), flag)
    is_folder = isinstance(images, ImageFiles) and folder.is_dir()
    inside = (one.name for one in folder.iterdir() if one.is_dir()) if is_folder else ()
    if empty := sorted(name for name in inside if name not in found.places and name[0] != "."):
        logger.warning(
            "no images in %s of %s; these folders are not used as classes", in_a_line(", ".join(empty[:5])), folder
        )
    return found


def _by_folder(images: ImageSet, where: str, flag: str, skipped: int = 0) -> ClassFolders:
    """The classes that the first folders of names make, after the ``skipped`` characters."""
    found: dict[str, list[int]] = {}
    loose = 0
    for place, name in enumerate(images.names):
        inside = Path(name[skipped:]).parts
        if len(inside) == 1:
            loose += 1
        else:
            found.setdefault(inside[0], []).append(place)
    if not found:
        raise UserError(f"{flag} {where} has no subfolders with images; it needs one per class")
    if loose:
        logger.warning("%d image(s) in %s are not in a class subfolder and are skipped", loose, where)
    return ClassFolders(where, images, {name: np.array(inside) for name, inside in sorted(found.items())})


def _by_label(images: ImageSet, labels: Sequence[str], where: str) -> ClassFolders:
    """Numbers in their order, words in that of the alphabet."""
    found: dict[str, list[int]] = {}
    for place, label in enumerate(labels):
        found.setdefault(label, []).append(place)
    order = in_natural_order(found, str) if all(label.isdecimal() for label in found) else sorted(found)
    return ClassFolders(where, images, {label: np.array(found[label]) for label in order}, True)


def listed(found: ClassFolders, names: Sequence[str]) -> LabeledFiles:
    """The images of the classes in turn; a class's label is its place among ``names``."""
    labels = [n for n, name in enumerate(names) if name in found.places]
    places = [found.places[names[n]] for n in labels]
    return LabeledFiles(
        found.images.subset(np.concatenate(places)),
        np.repeat(np.array(labels, dtype=np.int64), [len(some) for some in places]),
    )


def limited(labels_N: np.ndarray, limit: int | None, seed: int) -> np.ndarray:
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

"""Folders of classes: which image files have which label, and in which split. Without torch, which takes seconds."""

import logging
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fcmae.data.folder import equal_shares
from fcmae.data.parts import (
    Part,
    Source,
    each_of,
    may_hold_classes,
    named,
    no_labels,
    parts_by_name,
    rows_of,
    source_parts,
)
from fcmae.data.rows.images import RowImages
from fcmae.data.sources.entries import further_names
from fcmae.data.sources.files import ImageFiles
from fcmae.data.sources.image_set import ImageSet, Joined
from fcmae.data.splits import TRAIN, are_splits
from fcmae.data.stores.access import Access
from fcmae.errors import UserError, in_a_line
from fcmae.wording import counted

logger = logging.getLogger(__name__)

NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")
FRACTION = frozenset(".eE")


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
    folder: Source,
    test_share: float = 0.2,
    seed: int = 0,
    limit: int | None = None,
    flag: str = "--data.path",
    access: Access | None = None,
) -> tuple[LabeledFiles, LabeledFiles]:
    """The train and the test split of a folder; arguments and errors as :func:`fcmae.data.labeled.labeled_folder`.

    ``access`` says how URLs and tables are read; None: as by default.
    """
    given = each_of(folder)
    are_files = len(given) > 1 and all(map(os.path.isfile, given))
    for one in given:
        if not are_files and not may_hold_classes(one, access):
            what = "is not a folder" if Path(one).exists() else "does not exist"
            raise UserError(
                f"{flag} {one} {what}; give a folder with one subfolder of images per class, a glob in quotes of "
                f"images in such folders, such a .tar or .zip, a .parquet file with labels, or a URL of these"
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
            f"{flag} {named(folder)}: to be split, a class needs at least 2 images; too few in "
            f"{in_a_line(', '.join(few[:5]))}"
        )
    else:
        whole = listed(train, names)
        first, second = stratified_split(whole.labels, test_share, seed)
        parts = _chosen(whole, first), _chosen(whole, second)
    if len(names) < 2:
        raise UserError(f"{flag} {named(folder)} holds one class, {in_a_line(names[0])}; {train.needed}")
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


def class_parts(source: Source, flag: str = "--data.path", access: Access | None = None) -> list[ClassFolders]:
    """The images to train on and, where the source has ``train/`` and ``val/``, those to test on.

    Raises:
        UserError: there are no classes.
    """
    parts = source_parts(source, flag, access)
    if len(rows := rows_of(parts, flag)) != 1:
        return [joined([classes_of(part, flag) for part in side]) for side in parts]
    sides = parts_by_name(rows[0])
    where = [f"{named(source)}, split {what}," for what in (TRAIN, "test")] if len(sides) > 1 else [named(source)]
    return [classes_of(Part(*one), flag) for one in zip(where, sides, strict=True)]


def joined(found: Sequence[ClassFolders]) -> ClassFolders:
    """The classes of several sources together. A file counts once in a class; a line says how many are left out."""
    if len(found) == 1:
        return found[0]
    seen: set[object] = set()
    classes: dict[str, list[int]] = {}
    start = repeated = 0
    for one in found:
        identities = one.images.identities()
        for name, places in one.places.items():
            keys = [(name, key) for key in identities[places].tolist()]
            new = [start + place for place, key in zip(places.tolist(), keys, strict=True) if key not in seen]
            classes.setdefault(name, []).extend(new)
            seen.update(keys)
            repeated += len(keys) - len(new)
        start += len(one.images)
    if repeated:
        where = ",".join(one.where for one in found)
        logger.info("%s: %s", where, further_names(repeated))
    is_labeled = all(one.is_labeled for one in found)
    order = in_label_order(classes) if is_labeled else sorted(classes)
    kept = {name: np.array(classes[name]) for name in order if classes[name]}
    return ClassFolders(",".join(one.where for one in found), Joined([one.images for one in found]), kept, is_labeled)


def classes_of(part: Part, flag: str = "--data.path") -> ClassFolders:
    """The classes of images: as the source says, or by their first folders.

    Raises:
        UserError: there are none, or they are parts of a set.
    """
    images, labels = part.images, part.images.labels
    if labels is not None:
        return _by_label(images, labels, part.where)
    if isinstance(images, RowImages):
        raise UserError(f"{flag} {part.where} {no_labels(images)}")
    found = _by_folder(images, part.where, flag, part.skipped)
    folder = Path(part.where)
    is_folder = isinstance(images, ImageFiles) and folder.is_dir()
    inside = (one.name for one in folder.iterdir() if one.is_dir()) if is_folder else ()
    if empty := sorted(name for name in inside if name not in found.places and name[0] != "."):
        logger.warning(
            "no images in %s of %s; these folders are not used as classes", in_a_line(", ".join(empty[:5])), folder
        )
    return _not_of_splits(found, flag) if part.is_whole else found


def _not_of_splits(found: ClassFolders, flag: str) -> ClassFolders:
    """UserError where the folders that were taken for classes are parts of a set, such as val/ and test/ alone."""
    if not found.is_labeled and len(found.places) > 1 and are_splits(found.places):
        raise UserError(
            f"{flag} {found.where} has {', '.join(f'{name}/' for name in found.places)}: parts of a set, not classes; "
            f"one to train on must be {TRAIN}/, beside val/ or test/"
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
        logger.warning("%s not in a class subfolder of %s, skipped", counted(loose, "image is", "images are"), where)
    return ClassFolders(where, images, {name: np.array(inside) for name, inside in sorted(found.items())})


def _by_label(images: ImageSet, labels: Sequence[str], where: str) -> ClassFolders:
    found: dict[str, list[int]] = {}
    for place, label in enumerate(labels):
        found.setdefault(label, []).append(place)
    return ClassFolders(where, images, {label: np.array(found[label]) for label in in_label_order(found)}, True)


def in_label_order(labels: Iterable[str]) -> list[str]:
    """Numbers by value, negative ones and fractions too; words by the alphabet."""
    ordered = sorted(labels)
    if all(map(NUMBER.fullmatch, ordered)):
        # integers as such: floats cannot tell large ones apart
        ordered.sort(key=lambda label: float(label) if set(label) & FRACTION else int(label))
    return ordered


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

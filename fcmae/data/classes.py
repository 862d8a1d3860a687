"""Folders of classes: which image files have which label, and in which split. Without torch, which takes seconds."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fcmae.data.folder import equal_shares
from fcmae.data.sources.files import collect
from fcmae.data.sources.image_set import ImageSet
from fcmae.errors import UserError

logger = logging.getLogger(__name__)

TRAIN, TEST = "train", ("val", "validation", "test")  # names of the subfolders that split a folder


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
    folder: str | Path, test_share: float = 0.2, seed: int = 0, limit: int | None = None, flag: str = "--data.path"
) -> tuple[LabeledFiles, LabeledFiles]:
    """The train and the test split of a folder; arguments and errors as :func:`fcmae.data.labeled.labeled_folder`."""
    folder = Path(folder)
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "does not exist"
        raise UserError(f"{flag} {folder} {what}; give a folder with one subfolder of images per class")
    tests = [folder / name for name in TEST if (folder / name).is_dir()]
    is_split = (folder / TRAIN).is_dir() and bool(tests)
    train = class_folders(folder / TRAIN if is_split else folder, flag)
    names = list(train.places)
    if is_split:
        test = class_folders(tests[0], flag)
        if strangers := sorted(test.places.keys() - train.places.keys()):
            raise UserError(f"{flag} {tests[0]} has classes that {folder / TRAIN} lacks: {', '.join(strangers[:5])}")
        parts = listed(train, names), listed(test, names)
    elif few := [name for name in names if len(train.places[name]) < 2]:
        raise UserError(
            f"{flag} {folder}: to be split, a class needs at least 2 images; too few in {', '.join(few[:5])}"
        )
    else:
        whole = listed(train, names)
        first, second = stratified_split(whole.labels, test_share, seed)
        parts = _chosen(whole, first), _chosen(whole, second)
    if len(names) < 2:
        raise UserError(
            f"{flag} {folder} holds one class, {names[0]}; it needs one subfolder per class and at least two classes "
            f"(or train/ and val/ that contain them)"
        )
    train_files, test_files = (_chosen(part, limited(part.labels, limit, seed)) for part in parts)
    return train_files, test_files


def _chosen(files: LabeledFiles, places: np.ndarray) -> LabeledFiles:
    return LabeledFiles(files.paths.subset(places), files.labels[places])


class ClassFolders(NamedTuple):
    """The images of a folder with one subfolder per class."""

    images: ImageSet
    places: dict[str, np.ndarray]
    """Subfolder name → the indices of its images, in order of the names."""


def class_folders(folder: Path, flag: str = "--data.path") -> ClassFolders:
    """The classes that subfolders make; raises UserError if there are none."""
    found: dict[str, list[int]] = {}
    loose = 0
    images = collect(folder, by_class=True, flag=flag)
    for place, name in enumerate(images.names):
        inside = Path(name).parts
        if len(inside) == 1:
            loose += 1
        else:
            found.setdefault(inside[0], []).append(place)
    if not found:
        raise UserError(f"{flag} {folder} has no subfolders with images; it needs one per class")
    if loose:
        logger.warning("%d image(s) in %s are not in a class subfolder and are skipped", loose, folder)
    if empty := sorted(d.name for d in folder.iterdir() if d.is_dir() and d.name not in found and d.name[0] != "."):
        logger.warning("no images in %s of %s; these folders are not used as classes", ", ".join(empty[:5]), folder)
    return ClassFolders(images, {name: np.array(inside) for name, inside in sorted(found.items())})


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

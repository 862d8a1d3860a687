"""Labeled images for fine-tuning: folders of classes, tables, datasets of timm, and tiles of bundled photos."""

import logging
import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from fcmae.data.classes import classes_of, joined, listed
from fcmae.data.images import ImageFile
from fcmae.data.parts import each_of, may_hold_classes, named, rows_of, source_parts
from fcmae.data.pixel_reading import PixelReading
from fcmae.data.stores.urls import is_url, shown
from fcmae.errors import UserError
from fcmae.finetuning.config import PHOTOS, FinetuneDataConfig
from fcmae.finetuning.labeled_images import LabeledImages, LabeledSet, in_memory_image, of_files, some_of
from fcmae.finetuning.repeated import say_if_shared
from fcmae.finetuning.splitting import check_known, share_of_each, split_at_random
from fcmae.finetuning.table_sets import set_of_paths, set_of_rows
from fcmae.finetuning.tables import is_table
from fcmae.finetuning.tiles import photo_tiles
from fcmae.finetuning.timm_sets import timm_set
from fcmae.runs.utf8_path import readable
from fcmae.wording import counted

logger = logging.getLogger("fcmae")

ACCEPTED = (
    "give a folder with a subfolder for each class, a glob in quotes of images in such folders, such a .tar or .zip, "
    "a URL of these, a table (.csv, .parquet) of labels and paths or images, a --data.dataset of timm in its folder, "
    "or the word photo-tiles"
)
OF_TABLES = ("path_column", "label_column", "split_column", "column", "split")
"""Settings that nothing but tables has."""


@cache
def labeled_set(data: FinetuneDataConfig, seed: int) -> LabeledSet:
    """The images and labels that the settings name. The split depends on ``seed``, where none is given.

    Raises:
        UserError: no such source, no labels, fewer than two classes, a class with too few images, or classes of the
            images to validate on that those to train on lack.
    """
    if data.path is None:
        raise UserError(f"--data.path is missing: {ACCEPTED}")
    if data.path == PHOTOS:
        _check_no_table(data, f"--data.path {PHOTOS}")
        found = split_at_random(PHOTOS, *_tiles(), data, seed)
    elif data.dataset is not None:
        _check_no_table(data, f"--data.dataset {data.dataset}")
        found = timm_set(data)
    else:
        found = _of_sources(data.path, data, seed)
    _check_utf8(found)
    if len(found.classes) < 2 and not found.is_multi_label:
        raise UserError(
            f"{found.flag} {found.name} holds one class, {found.classes[0]}; at least two classes are needed"
        )
    if found.is_multi_label:
        _check_several(found)
    if data.train_share < 1:
        kept = share_of_each(found.train.labels, data.train_share, seed)
        found = replace(found, train=found.train.subset(kept))
    _warn_of_absent(found)
    return found


def _check_several(found: LabeledSet) -> None:
    """UserError if the labels teach nothing, or nothing can be scored."""
    where = f"{found.flag} {found.name}"
    if not found.train.labels.any():
        raise UserError(f"{where}: no image to train on has a label")
    if found.train.labels.all():
        which = "every image" if found.val.labels.all() else "every image to train on"
        raise UserError(f"{where}: {which} has all labels, {some_of(found.classes)}; there is nothing to learn")
    if not found.val.labels.any():
        raise UserError(f"{where}: no image to validate on has a label; label some, or give more images")


def _of_sources(sources: tuple[str, ...] | str, data: FinetuneDataConfig, seed: int) -> LabeledSet:
    given = each_of(sources)
    if len(given) > 1 and all(map(os.path.isfile, given)) and not any(map(is_table, given)):
        return _of_folders(sources, data, seed)
    for one in given:
        if may_hold_classes(one, data.access):
            continue
        if is_url(one):
            raise UserError(f"--data.path {shown(one)} is a list by URL, not read here; download it; {ACCEPTED}")
        if not Path(one).exists():
            raise UserError(f"--data.path {one} does not exist; {ACCEPTED}")
        if not is_table(one):
            raise UserError(f"--data.path {one} is neither a folder nor a table; {ACCEPTED}")
        if len(given) > 1:
            raise UserError(f"--data.path {one} is a table of paths, which are read one at a time; give it alone")
        return set_of_paths(Path(one), data, seed)
    return _of_folders(sources, data, seed)


def _of_folders(sources: tuple[str, ...] | str, data: FinetuneDataConfig, seed: int) -> LabeledSet:
    """One folder for each class, also in archives; or tables of images."""
    parts, folder = source_parts(sources, access=data.access), named(sources)
    if rows := rows_of(parts):
        return set_of_rows(folder, rows, data, seed)
    _check_no_table(data, f"--data.path {folder}")
    found, *tests = (joined([classes_of(part) for part in side]) for side in parts)
    names = tuple(found.places)
    if not tests:
        if len(names) < 2:
            raise UserError(f"--data.path {folder} holds one class, {readable(names[0])}; {found.needed}")
        return split_at_random(folder, of_files(*listed(found, names)), names, data, seed)
    val = tests[0]
    check_known(sorted(val.places), names, val.where, found.where)
    if found.images.may_have_links or val.images.may_have_links:
        say_if_shared(folder, *(one.images.subset(np.concatenate(list(one.places.values()))) for one in (found, val)))
    return LabeledSet(folder, names, of_files(*listed(found, names)), of_files(*listed(val, names)))


def _check_no_table(data: FinetuneDataConfig, where: str) -> None:
    """UserError for a setting that would be ignored."""
    for name in OF_TABLES:
        if (value := getattr(data, name)) is not None:
            raise UserError(f"--data.{name} {value} is for tables, and {where} is none; leave it out")


def _check_utf8(found: LabeledSet) -> None:
    """UserError for names of classes that the files of a run could not hold. Names of images may be any bytes."""
    for name in found.classes:
        if readable(name) != name:
            raise UserError(
                f"{found.flag} {found.name}: the name of the class {readable(name)} is not UTF-8; rename the folder "
                f"that has it, or write the label as UTF-8"
            )


def _tiles() -> tuple[LabeledImages, tuple[str, ...]]:
    _, labels, photos = photo_tiles()
    names = [f"{PHOTOS}/{photos[label]}-{n}" for n, label in enumerate(labels)]
    return LabeledImages(_open_tile, names, labels), photos


def _warn_of_absent(found: LabeledSet) -> None:
    """A line for classes without images on one side."""
    for what, images in (("to train on", found.train), ("to validate on", found.val)):
        labels = images.labels
        counts = labels.sum(0) if labels.ndim == 2 else np.bincount(labels, minlength=len(found.classes))
        if absent := [found.classes[c] for c in np.flatnonzero(counts == 0)]:
            classes = counted(len(absent), "class", "classes")
            logger.warning("%s: no images %s of %s: %s", found.name, what, classes, some_of(absent))


def _open_tile(index: int, reading: PixelReading) -> ImageFile:
    return in_memory_image(Path(f"{PHOTOS}/{index}"), reading, photo_tiles()[0][index], True, False)

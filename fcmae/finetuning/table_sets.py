"""Labeled sets of tables: of paths, or of the images themselves."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fcmae.data.classes import in_label_order
from fcmae.data.endings import EXTENSIONS, ending_of
from fcmae.data.parts import no_labels, parts_by_name
from fcmae.data.rows.images import RowImages
from fcmae.data.sources.files import ImageFiles
from fcmae.data.sources.image_set import ImageSet, Stamp
from fcmae.data.splits import TEST, TRAINING
from fcmae.errors import UserError
from fcmae.finetuning.cells import Labels, labels_of, splits_of
from fcmae.finetuning.config import FinetuneDataConfig
from fcmae.finetuning.labeled_images import LabeledImages, LabeledSet, of_files, some_of
from fcmae.finetuning.repeated import check_apart, each_once, say_if_shared
from fcmae.finetuning.splitting import check_known, split_at_random
from fcmae.finetuning.tables import Row, read_table
from fcmae.wording import none_there

logger = logging.getLogger("fcmae")

Places = list[int]


@dataclass(frozen=True)
class Rows:
    """The rows of one or several tables."""

    name: str
    """Of the table, for messages."""
    images: ImageSet
    labels: Labels
    splits: Sequence[str] | None
    """As :func:`fcmae.finetuning.cells.splits_of` gives them."""


def set_of_paths(file: Path, data: FinetuneDataConfig, seed: int) -> LabeledSet:
    """The images at the paths in a table.

    Raises:
        UserError: as for :func:`read_table`; an image that is named twice in ways that contradict each other or put it
            into both splits; no image is there; or splits or classes that do not fit.
    """
    for name, instead in (("column", "path_column"), ("split", "split_column")):
        if (value := getattr(data, name)) is not None:
            raise UserError(f"--data.{name} {value} is for tables of images; {file} lists paths: --data.{instead}")
    table = read_table(file, data.path_column, data.label_column, data.split_column)
    rows = each_once(table.rows, str(file))
    splits = [row.split for row in rows if row.split is not None] or None
    parts = _parts(splits, str(file))
    if parts is not None:
        check_apart(str(file), *([rows[n] for n in part] for part in parts))
    stamps = [_stamp(row.path) for row in rows]
    _check_there(rows, {n for n, stamp in enumerate(stamps) if stamp is None}, parts or (), file, table.path_column)
    images = ImageFiles(
        [Path(row.path) for row in rows], [row.name for row in rows], [stamp or (0, 0) for stamp in stamps]
    )
    labels = Labels([row.labels for row in rows], table.has_several)
    return _set_of(Rows(str(file), images, labels, splits), data, seed)


def set_of_rows(name: str, parts: Sequence[RowImages], data: FinetuneDataConfig, seed: int) -> LabeledSet:
    """The images in tables. A column that is named says the splits; else the ``parts``, which are those to train on
    and to test on, the names of the files, or a column of a usual name.

    Raises:
        UserError: no labels, or labels, splits or classes that do not fit.
    """
    if data.path_column is not None:
        raise UserError(
            f"--data.path_column {data.path_column} is for tables of paths; {name} holds images: --data.column"
        )
    if data.split_column is None and len(parts) == 1:
        parts = parts_by_name(parts[0])
    parts = [part.once() for part in parts]
    if data.split_column is None and len(parts) == 2:
        say_if_shared(name, *parts)
    images = parts[0] if len(parts) == 1 else parts[0].with_rows_of(parts[1])
    splits: Sequence[str] | None
    if data.split_column is None and len(parts) == 2:
        splits = [TRAINING[0]] * len(parts[0]) + [TEST[0]] * len(parts[1])
    else:
        splits = splits_of(images.columns, images.values, data.split_column, name)
    cells = images.label_cells
    if cells is None:
        raise UserError(f"--data.path {name} {no_labels(images)}")
    labels = labels_of(cells, f"--data.path {name}", images.where)
    return _set_of(Rows(name, images, labels, splits), data, seed)


def _set_of(rows: Rows, data: FinetuneDataConfig, seed: int) -> LabeledSet:
    labels = rows.labels.of_rows
    if not any(labels):
        raise UserError(f"--data.path {rows.name}: all labels are missing")
    parts = _parts(rows.splits, rows.name)
    if parts is None:
        classes = _classes(labels)
        return split_at_random(rows.name, _chosen(rows, range(len(labels)), classes), classes, data, seed)
    if rows.splits is not None and (left := sorted(set(range(len(labels))).difference(*parts))):
        logger.warning(
            "%s: %d of %d rows are neither trained nor validated on; their split is %s",
            rows.name, len(left), len(labels), some_of(sorted({rows.splits[n] or "empty" for n in left})),
        )  # fmt: skip
    of_train, of_val = (_classes([labels[n] for n in part]) for part in parts)
    check_known(of_val, of_train, f"{rows.name}, split val,", "split train")
    return LabeledSet(rows.name, of_train, *(_chosen(rows, part, of_train) for part in parts))


def _parts(splits: Sequence[str] | None, table: str) -> tuple[Places, Places] | None:
    """The rows to train on, and those to validate on; None: no column says it.

    Raises:
        UserError: there are not both.
    """
    if splits is None:
        return None
    chosen = next((name for name in TEST if name in splits), None)
    train = [n for n, split in enumerate(splits) if split in TRAINING]
    val = [n for n, split in enumerate(splits) if split == chosen]
    if train and val:
        return train, val
    values = some_of(sorted({one or "empty" for one in splits}))
    raise UserError(
        f"--data.path {table}: its column of splits has {values}; it needs train and val, or take another "
        f"--data.split_column"
    )


def _classes(labels: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(in_label_order({label for one in labels for label in one}))


def _chosen(rows: Rows, places: Sequence[int], classes: tuple[str, ...]) -> LabeledImages:
    number = {name: n for n, name in enumerate(classes)}
    found = [[number[label] for label in rows.labels.of_rows[place]] for place in places]
    if rows.labels.has_several:
        labels = np.zeros((len(found), len(classes)), dtype=bool)
        for place, numbers in enumerate(found):
            labels[place, numbers] = True
        return of_files(rows.images.subset(places), labels)
    labels = np.array([numbers[0] for numbers in found], dtype=np.int64)
    if not isinstance(rows.images, RowImages):
        return of_files(rows.images.subset(places), labels)
    by_class = np.argsort(labels, kind="stable")  # as in a folder of classes
    return of_files(rows.images.subset(places[n] for n in by_class), labels[by_class])


def _stamp(path: str) -> Stamp | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # not there, or no path
        return None
    return found.st_size, found.st_mtime_ns


def _check_there(rows: Sequence[Row], missing: set[int], parts: Sequence[Places], file: Path, column: str) -> None:
    """A line that counts the images that are not there; UserError if none of all, or of a part, is."""
    for part in (list(range(len(rows))), *parts):
        if missing.issuperset(part):
            has_endings = any(ending_of(rows[n].path) in EXTENSIONS for n in part)
            of_part = f" of the split {rows[part[0]].split}" if len(part) < len(rows) else ""
            raise UserError(
                f"--data.path {file}: "
                + none_there(len(part), rows[part[0]].path, of=f"{of_part} in the table")
                + f"; the column {column} holds no names of files with endings such as .jpg" * (not has_endings)
            )
    if missing:
        logger.warning(
            "%d of %d images of %s are not there; the first: %s",
            len(missing), len(rows), file, rows[min(missing)].path,
        )  # fmt: skip

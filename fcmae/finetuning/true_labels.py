"""The true labels of images to predict, where their source has them: a column of a table, or folders of classes."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from fcmae.data.missing import ClassName
from fcmae.data.rows.images import RowImages
from fcmae.data.rows.splits import in_split
from fcmae.data.sources.archives.names import expanded
from fcmae.data.sources.image_set import ImageSet, Joined
from fcmae.data.splits import TEST, TRAINING
from fcmae.errors import UserError, brief, in_a_line
from fcmae.files import identity
from fcmae.finetuning.cells import Labels, labels_of, splits_of
from fcmae.finetuning.labeled_images import some_of
from fcmae.finetuning.repeated import each_once
from fcmae.finetuning.tables import TEXT, has_labels, read_table
from fcmae.runs.utf8_path import readable

if TYPE_CHECKING:
    from fcmae.predict import PredictConfig

logger = logging.getLogger("fcmae")

FLAG = "IMAGES"


@dataclass(frozen=True)
class TrueLabels:
    """The labels of some of the images."""

    said_by: str
    """For a line: ``class of the image's folder``, or ``label in test.csv``."""
    of_places: Mapping[int, tuple[int, ...]]
    """Index of an image → the numbers of its classes."""


@dataclass(frozen=True)
class _Rows:
    """The rows of a table."""

    where: str
    keys: Sequence[object]
    """What tells of each row which image it is."""
    labels: Labels
    splits: Sequence[str | None] | None
    key_of: Callable[[int], object]
    """Index of an image → its key."""


def labels_of_source(
    images: ImageSet, config: "PredictConfig", classes: Sequence[str], has_several: bool
) -> TrueLabels | None:
    """What a table, or shards with classes, say of their images; None if they say nothing.

    Where they tell splits apart, the images to test on count, or, if there are none, those to validate on. Labels that
    do not fit get a line that says why nothing is scored.

    Args:
        images: what ``config.images`` hold.
        config: the sources, and how they are read.
        classes: those of the run.
        has_several: whether the run gives an image several labels, or none.

    Raises:
        UserError: a column was named, and its labels do not fit.
    """
    try:
        rows = _rows(images, config)
        return None if rows is None else _true_labels(rows, len(images), classes, has_several)
    except UserError as error:
        if config.data.columns:
            raise
        logger.warning("not scored by labels of its own: %s", error)
        return None


def _rows(images: ImageSet, config: "PredictConfig") -> _Rows | None:
    sources, data = expanded(config.images), config.data
    if is_text_table(sources):
        return _of_table(images, Path(sources[0]), config)
    where, splits = " ".join(sources[:3]) + " …" * (len(sources) > 3), None
    if isinstance(images, RowImages):
        if (cells := images.label_cells) is None:
            return None
        splits = splits_of(images.columns, images.values, data.split_column, where) or _by_name(images)
    elif images.labels is not None:
        cells = [ClassName(text) for text in images.labels]
    else:
        return None
    labels = labels_of(cells, f"{FLAG} {where}", lambda n: in_a_line(images.name(n)))
    return _Rows(where, range(len(images)), labels, splits, lambda place: place)


def _of_table(images: ImageSet, file: Path, config: "PredictConfig") -> _Rows | None:
    data = config.data
    if not data.columns and not has_labels(file, FLAG):
        return None
    table = read_table(file, None, data.label_column, data.split_column, FLAG)
    rows = each_once(table.rows, str(file), FLAG)
    return _Rows(
        str(file),
        [identity(row.path) for row in rows],
        Labels([row.labels for row in rows], table.has_several),
        None if rows[0].split is None else [row.split for row in rows],
        lambda place: identity(str(images.item(place))),
    )


def _by_name(images: RowImages) -> list[str] | None:
    """The split of each row, if the names of the files tell those to train on and to test on apart."""
    files = [images.name(n).rpartition("/")[0] for n in range(len(images))]
    split_of = {file: next((one for one in (*TRAINING, *TEST) if in_split(file, one)), "") for file in set(files)}
    there = set(split_of.values())
    return None if there.isdisjoint(TRAINING) or there.isdisjoint(TEST) else [split_of[file] for file in files]


def _true_labels(rows: _Rows, images: int, classes: Sequence[str], has_several: bool) -> TrueLabels:
    where, split = f"{FLAG} {rows.where}", _scored(rows)
    if rows.labels.has_several and not has_several:
        raise UserError(f"{where}: its images may have several labels or none; the run gives each one")
    splits = rows.splits or [split] * len(rows.keys)
    chosen = zip(rows.keys, rows.labels.of_rows, splits, strict=True)
    labels_of_key = {key: labels for key, labels, its_split in chosen if its_split == split}
    number_of = {name: n for n, name in reversed(list(enumerate(classes)))}
    found = {}
    for place in range(images):
        if (labels := labels_of_key.get(rows.key_of(place))) is not None:
            if unknown := [one for one in labels if one not in number_of]:
                one = brief(readable(unknown[0]), 60)
                raise UserError(f"{where}: the label {one} is no class of the run; it has {some_of(classes)}")
            found[place] = tuple(number_of[one] for one in labels)
    return TrueLabels(f"label in {rows.where}" + f", split {split}" * bool(split), found)


def _scored(rows: _Rows) -> str | None:
    """The split that counts; None: there are no splits.

    Raises:
        UserError: there are, but none to test or to validate on.
    """
    if rows.splits is None:
        return None
    there = set(rows.splits)
    for name in (TEST[-1], *TEST[:-1]):
        if name in there:
            return name
    shown = some_of(sorted(one or "empty" for one in there))
    raise UserError(f"{FLAG} {rows.where}: no image is of a split to test or to validate on, but of {shown}")


def labels_of_folders(names: Mapping[int, str], classes: Sequence[str]) -> TrueLabels | None:
    """The classes of images, if below a common folder every one has one folder that is called like a class, and not
    all the same; else None.

    Args:
        names: index of an image → its name, with folders.
        classes: those of the run.
    """
    folders = [name.split("/")[:-1] for name in names.values()]
    ends = zip(min(folders), max(folders), strict=False)
    shared = len(list(takewhile(lambda pair: pair[0] == pair[1], ends)))
    own = [set(classes).intersection(above[shared:]) for above in folders]
    if any(len(found) != 1 for found in own):
        return None
    numbers = [(list(classes).index(found.pop()),) for found in own]
    return TrueLabels("class of the image's folder", dict(zip(names, numbers, strict=True)))


def name_in_source(images: ImageSet, place: int) -> str:
    """The name of an image, without the number of its source where there are several."""
    if (given := images.given(place)) is not None:
        return given
    name = images.name(place)
    return name.partition("/")[2] if isinstance(images, Joined) else name


def is_text_table(sources: Sequence[str]) -> bool:
    """Whether these are a single CSV or TSV file, here."""
    return len(sources) == 1 and Path(sources[0]).suffix.lower() in TEXT and os.path.isfile(sources[0])

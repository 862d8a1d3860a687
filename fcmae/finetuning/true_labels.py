"""The true labels of images to predict, where their source has them: a column of a table, or folders of classes."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any, TypeVar

from fcmae.data.missing import is_missing
from fcmae.data.sources.image_set import ImageSet, Joined
from fcmae.data.splits import TRAINING
from fcmae.errors import UserError, brief, in_a_line
from fcmae.finetuning.cells import labels_of
from fcmae.finetuning.labeled_images import some_of
from fcmae.finetuning.source_table import FLAG, SCORED, SourceTable, source_table
from fcmae.runs.utf8_path import readable
from fcmae.wording import counted

if TYPE_CHECKING:
    from fcmae.predict import PredictConfig

logger = logging.getLogger("fcmae")

T = TypeVar("T")


@dataclass(frozen=True)
class TrueLabels:
    """The labels of some of the images."""

    said_by: str
    """For a line: ``class of the image's folder``, or ``label in test.csv, column label``."""
    of_places: Mapping[int, tuple[int, ...]]
    """Index of an image → the numbers of its classes."""


@dataclass(frozen=True)
class Stated:
    """What a source says of its images."""

    labels: TrueLabels | None = None
    """None: nothing, or what does not fit."""
    places: frozenset[int] | None = None
    """The images to score; None: all."""
    split: str | None = None
    """Which these are; None: there are no splits."""


def stated_by_source(images: ImageSet, config: "PredictConfig", classes: Sequence[str], has_several: bool) -> Stated:
    """What a table, or shards with classes, say of their images.

    Where it tells splits apart, the images to test on count, or, if there are none, those to validate on, or those to
    train on. What does not fit gets a line that says why: the images are predicted all the same.

    Args:
        images: what ``config.images`` hold.
        config: the sources, and how they are read.
        classes: those of the run.
        has_several: whether the run gives an image several labels, or none.

    Raises:
        UserError: a column was named, and it is not there or does not fit.
    """
    data = config.data
    table = _or_told(lambda: source_table(images, config), is_asked=bool(data.columns))
    if table is None:
        return Stated()
    split, rows = _scored_rows(table)
    keys = {table.keys[n] for n in rows}
    places = None if split is None else frozenset(n for n in range(len(images)) if table.key_of(n) in keys)
    labels = None
    if table.cells is not None:
        labels = _or_told(
            lambda: _true_labels(table, rows, split, len(images), classes, has_several),
            is_asked=data.label_column is not None,
        )
    return Stated(labels, places, split)


def _or_told(work: Callable[[], T], is_asked: bool) -> T | None:
    """The result; None, and a line, after an error, unless the user asked for what it is about."""
    try:
        return work()
    except UserError as error:
        if is_asked:
            raise
        logger.warning("labels of the source are not used: %s", error)
        return None


def _scored_rows(table: SourceTable) -> tuple[str | None, Sequence[int]]:
    """The split that counts, None if there are none, and its rows.

    Raises:
        UserError: the column that was named has no known split. (One that was not is only used if it has.)
    """
    if table.splits is None:
        return None, range(len(table.keys))
    rows: dict[str, list[int]] = {}
    for n, split in enumerate(table.splits):
        rows.setdefault(split or "", []).append(n)
    known = [name for name in SCORED if name in rows]
    if not known:
        raise UserError(f"{FLAG} {table.where}: no image is of a known split, but of {some_of(sorted(rows))}")
    cells = table.cells
    labeled = (name for name in known if cells is None or any(not _is_empty(cells[n]) for n in rows[name]))
    chosen = next(labeled, known[0])
    trained = {table.keys[n] for name in TRAINING if name != chosen for n in rows.get(name, ())}
    if both := sum(table.keys[n] in trained for n in rows[chosen]):
        logger.warning(
            "%s: %s of the split %s and of %s; the score tells little",
            table.where, counted(both, "image is", "images are"), chosen, TRAINING[0],
        )  # fmt: skip
    return chosen, rows[chosen]


def _is_empty(cell: Any) -> bool:
    return is_missing(cell) or str(cell).strip() in ("", "[]")


def _true_labels(
    table: SourceTable, rows: Sequence[int], split: str | None, images: int, classes: Sequence[str], has_several: bool
) -> TrueLabels:
    assert table.cells is not None
    where = f"{FLAG} {table.where}"
    labels = labels_of([table.cells[n] for n in rows], where, lambda n: table.row(rows[n]), has_several)
    if not has_several and any(len(one) != 1 for one in labels.of_rows):
        raise UserError(f"{where}: its images may have several labels or none; the run gives each one")
    of_keys: dict[object, tuple[str, ...]] = {}
    for n, own in zip(rows, labels.of_rows, strict=True):
        if set(of_keys.setdefault(table.keys[n], own)) != set(own):
            raise UserError(f"{where}: the image in {table.row(n)} has other labels in another row")
    number_of = {name: n for n, name in reversed(list(enumerate(classes)))}
    found = {}
    for place in range(images):
        if (its := of_keys.get(table.key_of(place))) is None:
            continue
        unknown = next((one for one in its if one not in number_of), None)
        if unknown is not None:
            unknown = brief(in_a_line(readable(unknown)), 60)
            raise UserError(
                f"{where}: the label {unknown or '(empty)'} is no class of the run; it has {some_of(classes)}"
            )
        found[place] = tuple(number_of[one] for one in its)
    if not found:
        raise UserError(f"{where}: no row is of an image that was found")
    column = f", column {in_a_line(readable(table.column))}" * bool(table.column)
    return TrueLabels(f"label in {table.where}{column}{_of(split)}", found)


def labels_of_folders(names: Mapping[int, str], classes: Sequence[str], split: str | None = None) -> TrueLabels | None:
    """The classes of images, if below a common folder every one has one folder that is called like a class, and not
    all the same; else None.

    Args:
        names: index of an image → its name, with folders.
        classes: those of the run.
        split: what these are of, for the line.
    """
    if not names:
        return None
    folders = [name.split("/")[:-1] for name in names.values()]
    ends = zip(min(folders), max(folders), strict=False)
    shared = len(list(takewhile(lambda pair: pair[0] == pair[1], ends)))
    own = [set(classes).intersection(above[shared:]) for above in folders]
    if any(len(found) != 1 for found in own):
        return None
    numbers = [(list(classes).index(found.pop()),) for found in own]
    return TrueLabels(f"class of the image's folder{_of(split)}", dict(zip(names, numbers, strict=True)))


def _of(split: str | None) -> str:
    return "" if split is None else f", split {split}"


def name_in_source(images: ImageSet, place: int) -> str:
    """The name of an image, without the number of its source where there are several."""
    if (given := images.given(place)) is not None:
        return given
    name = images.name(place)
    return name.partition("/")[2] if isinstance(images, Joined) else name

"""What the cells of a table say of its images: their labels, and which part of the set they are of."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fcmae.data.missing import ClassName, is_missing, label_text
from fcmae.data.rows.columns import usual_column
from fcmae.data.splits import SPLITS
from fcmae.errors import UserError, in_a_line
from fcmae.runs.utf8_path import readable

logger = logging.getLogger("fcmae")

SPLIT_COLUMNS = ("split", "set", "subset", "fold", "partition")
SEPARATORS = (";", "|")
"""Between the labels of an image that has several."""
SHOWN = 5  # values in a message


class Labels(NamedTuple):
    """The labels of all rows."""

    of_rows: list[tuple[str, ...]]
    """None for an image that has none of the classes."""
    has_several: bool
    """Whether an image may have several labels, or none."""


def labels_of(cells: Sequence[Any], table: str, row: Callable[[int], str], may_be_several: bool = False) -> Labels:
    """The labels in a column.

    Args:
        cells: texts, numbers, or lists of these; those of a text are separated by ; or |.
        table: flag and file, for messages.
        row: index → the row, for messages.
        may_be_several: whether an image may have several or none, even if no cell of these says so.

    Raises:
        UserError: a row has no label while none has several; a label is a missing value, no UTF-8, or a vector.
    """
    several = (
        may_be_several
        or any(isinstance(one, list | tuple) for one in cells)
        or any(
            separator in one
            for one in cells
            if isinstance(one, str) and not isinstance(one, ClassName)
            for separator in SEPARATORS
        )
    )
    found = [_labels(cell) for cell in cells]
    for number, labels in enumerate(found):
        if not labels and not several:
            raise UserError(f"{table}: the label is missing in {row(number)}")
        for one in labels:
            if is_missing(one):
                raise UserError(
                    f"{table}: the label in {row(number)} is {one}, a missing value; leave such rows out, or leave the "
                    f"cell empty for an image without labels"
                )
            if readable(one) != one:
                raise UserError(
                    f"{table}: the label in {row(number)} is not UTF-8: {readable(one)}; save the table as UTF-8"
                )
    if several and _are_vectors(found):
        raise UserError(
            f"{table}: its labels, such as {list(found[0])}, are numbers for every class in turn (one-hot); give the "
            f"names or the numbers of the classes that an image has"
        )
    return Labels([tuple(map(str, labels)) for labels in found], several)


def _labels(cell: Any) -> tuple[str, ...]:
    if not isinstance(cell, str) and is_missing(cell):
        return ()
    if isinstance(cell, ClassName):
        return (cell,)
    if isinstance(cell, list | tuple):
        return tuple("nan" if one is None else one if isinstance(one, ClassName) else str(one).strip() for one in cell)
    text = label_text(cell)
    for separator in SEPARATORS[1:]:
        text = text.replace(separator, SEPARATORS[0])
    return tuple(one.strip() for one in text.split(SEPARATORS[0]) if one.strip())


def _are_vectors(labels: Sequence[tuple[str, ...]]) -> bool:
    """Whether each is as long as the others and made of 0 and 1, or of shares: as numbers of classes, 0 and 1 could not
    be in every row."""
    lengths, values = {len(one) for one in labels}, {value for one in labels for value in one}
    return len(lengths) == 1 and min(lengths) > 1 and all(map(_is_share, values))


def _is_share(value: str) -> bool:
    try:
        return value in ("True", "False") or (0 <= float(value) <= 1)
    except ValueError:
        return False


def splits_of(
    columns: Sequence[str], values: Callable[[str], Sequence[Any]], given: str | None, file: str
) -> Sequence[str] | None:
    """The part that each row is of, in small letters, empty where the cell is; None: no column says it.

    Args:
        columns: those of the table.
        values: name of a column → its cells.
        given: the column; None: the first of the usual names that tells parts apart.
        file: for messages.

    Raises:
        UserError: there is no such column.
    """
    if given is not None:
        if given not in columns:
            raise UserError(f"--data.split_column {given} is not a column of {file}; it has {', '.join(columns[:6])}")
        return _parts(values(given))
    for usual in SPLIT_COLUMNS:
        if (name := usual_column(columns, [usual])) is None:
            continue
        found = _parts(values(name))
        if _tell_apart(set(found)):
            return found
        some = sorted(set(found))[:SHOWN]
        logger.warning(
            "%s: the column %s is not used: its values are no splits such as train and val, but %s",
            file, name, in_a_line(", ".join(readable(one) or "empty" for one in some)),
        )  # fmt: skip
    return None


def _parts(cells: Sequence[Any]) -> list[str]:
    return ["" if is_missing(cell) else str(cell).strip().lower() for cell in cells]


def _tell_apart(values: set[str]) -> bool:
    """Whether a value is the name of a part; others are then parts to leave out."""
    return not values.isdisjoint(SPLITS)

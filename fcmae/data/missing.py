"""Cells of a column of labels: missing values, however a program writes them, and the names of others."""

from typing import Any

MISSING = frozenset(("NA", "N/A", "null", "<NA>"))
"""What R, SQL and pandas write, in exactly these spellings; nan in any. None is a word for a class of its own."""


class ClassName(str):
    """The name that a table's file gives to a number: a label as it is, whatever it looks like."""


def is_missing(cell: Any) -> bool:
    """Whether a cell says that there is no value; an empty text is a value."""
    if cell is None or cell != cell:  # NaN, pandas' missing value
        return True
    if not isinstance(cell, str) or isinstance(cell, ClassName):
        return False
    return cell.strip() in MISSING or cell.strip().lower() == "nan"


def label_text(cell: Any) -> str:
    """A label as a name: whole numbers without a point."""
    return str(int(cell) if isinstance(cell, float) and cell.is_integer() else cell)

"""Missing values in the cells of tables, however a program writes them."""

from typing import Any

MISSING = frozenset(("NA", "N/A", "null", "<NA>"))
"""What R, SQL and pandas write, in exactly these spellings; nan in any. None is a word for a class of its own."""


def is_missing(cell: Any) -> bool:
    """Whether a cell says that there is no value; an empty text is a value."""
    if cell is None or cell != cell:  # NaN, pandas' missing value
        return True
    return isinstance(cell, str) and (cell.strip() in MISSING or cell.strip().lower() == "nan")

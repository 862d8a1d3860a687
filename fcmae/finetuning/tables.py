"""Tables of paths and labels: CSV, TSV or Parquet."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fcmae.data.sources.lists import COLUMNS as PATH_COLUMNS
from fcmae.errors import UserError

TEXT, PARQUET = (".csv", ".tsv"), (".parquet", ".pq")
LABEL_COLUMNS = (
    *("label", "labels", "class", "classes", "class_name", "category", "categories", "target", "targets", "tags"),
    *("y", "diagnosis", "finding_labels", "finding labels"),
)
SPLIT_COLUMNS = ("split", "set", "subset", "fold", "partition")
SEPARATORS = (";", "|")
"""Between the labels of an image that has several."""


class Row(NamedTuple):
    """A line of a table."""

    path: str
    """Absolute, or from the working directory."""
    name: str
    """As in the table."""
    labels: tuple[str, ...]
    """None for an image that has none of the classes."""
    split: str | None


class Table(NamedTuple):
    """What a table says."""

    rows: list[Row]
    has_several: bool
    """Whether an image may have several labels, or none."""


def is_table(file: str | Path) -> bool:
    """Whether a file is a table, by its ending."""
    return Path(file).suffix.lower() in (*TEXT, *PARQUET)


def read_table(
    file: Path,
    path_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    flag: str = "--data.path",
) -> Table:
    """The rows of a table, in its order. Relative paths begin at the table's folder, or at the working directory if the
    first is not there but here.

    Args:
        file: a .csv or .tsv file with a header, or a .parquet file.
        path_column: its column of paths; None: the first of the usual names.
        label_column: its column of labels. Those of text cells are separated by ; or |; those of Parquet may be lists.
        split_column: its column of splits; None: the first of the usual names, if there is one.
        flag: option name used in messages.

    Raises:
        UserError: it cannot be read, has no such columns, a row has no path or no label, or labels are vectors.
    """
    columns = _parquet(file, flag) if file.suffix.lower() in PARQUET else _text(file, flag)
    if not columns or not next(iter(columns.values())):
        raise UserError(f"{flag} {file} has no rows; it needs a header and a row for each image")
    paths = columns[_column(columns, path_column, PATH_COLUMNS, "path", file, flag)]
    labels = columns[_column(columns, label_column, LABEL_COLUMNS, "label", file, flag)]
    split_name = _optional(columns, split_column, SPLIT_COLUMNS, file, flag)
    splits = [None] * len(paths) if split_name is None else columns[split_name]
    several = any(isinstance(one, list | tuple) for one in labels) or any(
        separator in one for one in labels if isinstance(one, str) for separator in SEPARATORS
    )
    beside = file.parent
    first = str(paths[0]).strip()
    from_here = not (beside / first).exists() and os.path.exists(first)
    rows = []
    for number, (path, label, split) in enumerate(zip(paths, labels, splits, strict=True), 1):
        name = "" if path is None else str(path).strip()
        if not name:
            raise UserError(f"{flag} {file}: row {number} has no path")
        found = _labels(label)
        if not found and not several:
            raise UserError(f"{flag} {file}: the label is missing in row {number} ({name})")
        if (odd := next((one for one in found if one.lower() == "nan"), None)) is not None:
            raise UserError(
                f"{flag} {file}: the label in row {number} ({name}) is {odd}, a missing value; leave such rows out, or "
                f"leave the cell empty for an image without labels"
            )
        whole = os.path.normpath(name if from_here else beside / name)
        rows.append(Row(whole, name, found, None if split is None else str(split).strip().lower()))
    if several and _are_vectors([row.labels for row in rows]):
        raise UserError(
            f"{flag} {file}: its labels, such as {list(rows[0].labels)}, are numbers for every class in turn "
            f"(one-hot); give the names or the numbers of the classes that an image has"
        )
    return Table(rows, several)


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


def _labels(cell: Any) -> tuple[str, ...]:
    if cell is None or cell != cell:  # NaN, pandas' missing value
        return ()
    if isinstance(cell, list | tuple):
        return tuple("nan" if one is None else str(one).strip() for one in cell)
    text = str(int(cell) if isinstance(cell, float) and cell.is_integer() else cell)
    for separator in SEPARATORS[1:]:
        text = text.replace(separator, SEPARATORS[0])
    return tuple(one.strip() for one in text.split(SEPARATORS[0]) if one.strip())


def _column(
    columns: Mapping[str, Any], given: str | None, usual: Sequence[str], what: str, file: Path, flag: str
) -> str:
    found = _optional(columns, given, usual, file, flag, f"{what}_column")
    if found is None:
        raise UserError(
            f"{flag} {file} has no column of {what}s; name it {what}, or give --data.{what}_column "
            f"({', '.join(list(columns)[:6])})"
        )
    return found


def _optional(
    columns: Mapping[str, Any], given: str | None, usual: Sequence[str], file: Path, flag: str,
    option: str = "split_column",
) -> str | None:  # fmt: skip
    if given is not None:
        if given not in columns:
            raise UserError(f"--data.{option} {given} is not a column of {file}; it has {', '.join(list(columns)[:6])}")
        return given
    lower = {name.strip().lower(): name for name in reversed(list(columns))}
    return next((lower[name] for name in usual if name in lower), None)


def _text(file: Path, flag: str) -> dict[str, list[str | None]]:
    try:
        text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")  # names may be any bytes
    except OSError as error:
        raise UserError(f"{flag} {file} cannot be read: {error.strerror}") from None
    lines = text.splitlines()
    if not lines or "\0" in text:
        raise UserError(f"{flag} {file} is {'no text file' if lines else 'empty'}; give a table with a header")
    # not guessed from more than the header: labels have separators of their own
    delimiter = max(",\t;", key=lines[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        rows = [row for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise UserError(f"{flag} {file} is not a table, line {reader.line_num}: {error}") from None
    if not rows:
        raise UserError(f"{flag} {file} is empty; give a table with a header")
    header = [name.strip() for name in rows[0]]
    cells = [[row[n] if n < len(row) else None for row in rows[1:]] for n in range(len(header))]
    return dict(zip(header, cells, strict=True))


def _parquet(file: Path, flag: str) -> dict[str, list[Any]]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"{flag} {file}: Parquet needs pyarrow; pip install 'fcmae[parquet]', or give a CSV") from None
    try:
        return parquet.read_table(file).to_pydict()
    except Exception as error:  # pyarrow has errors of its own
        raise UserError(f"{flag} {file} cannot be read: {' '.join(str(error).split())}") from None

"""Tables of paths and labels: CSV, TSV or Parquet."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fcmae.data.endings import EXTENSIONS, ending_of
from fcmae.data.missing import is_missing
from fcmae.data.rows.columns import LABEL_COLUMNS, may_hold_labels, usual_column
from fcmae.data.sources.lists import COLUMNS as PATH_COLUMNS
from fcmae.data.sources.lists import DELIMITERS, all_joined, delimiter_of, text_of
from fcmae.data.stores.urls import is_url, shown
from fcmae.errors import UserError, in_a_line
from fcmae.finetuning.cells import labels_of, splits_of
from fcmae.runs.utf8_path import readable

TEXT, PARQUET = (".csv", ".tsv"), (".parquet", ".pq")


class Row(NamedTuple):
    """A line of a table."""

    path: str
    """Absolute, or from the working directory."""
    name: str
    """As in the table."""
    labels: tuple[str, ...]
    """None for an image that has none of the classes."""
    split: str | None
    """In small letters; None: the table has no splits."""


class NoHeaderError(UserError):
    """The first row of a text is that of an image."""


class Table(NamedTuple):
    """What a table says."""

    rows: list[Row]
    has_several: bool
    """Whether an image may have several labels, or none."""
    path_column: str


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
        path_column: its column of paths; None: the first of the usual names, or the first that holds a name of an image
            in the first row, as in a list.
        label_column: its column of labels. Those of text cells are separated by ; or |; those of Parquet may be lists.
        split_column: its column of splits; None: the first of the usual names that has splits, if there is one.
        flag: option name used in messages.

    Raises:
        UserError: it cannot be read, has no such columns, a row has no path or a URL, or as :func:`labels_of` says.
    """
    columns = columns_of(file, flag, (path_column, label_column, split_column))
    path_name, names = paths_of(columns, path_column, file, flag)
    if "" in names:
        raise UserError(f"{flag} {file}: row {names.index('') + 1} has no path")
    if url := next(filter(is_url, names), None):
        raise UserError(
            f"{flag} {file}: row {names.index(url) + 1} is a URL, {shown(url)}, which a table of labels cannot have; "
            f"download the images, or give a URL of a folder of classes or of Parquet with images"
        )
    labels = labels_of(
        columns[_column(columns, label_column, LABEL_COLUMNS, "label", file, flag)],
        f"{flag} {file}",
        lambda place: f"row {place + 1} ({readable(names[place])})",
    )
    splits: Sequence[str | None] | None = splits_of(list(columns), columns.__getitem__, split_column, str(file))
    rows = map(
        Row, [line.path for line in all_joined(str(file), names)], names, labels.of_rows, splits or [None] * len(names)
    )
    return Table(list(rows), labels.has_several, path_name)


def columns_of(file: Path, flag: str = "--data.path", named: Sequence[str | None] = ()) -> dict[str, list[Any]]:
    """The cells of a table by the names of its columns; of two of a name, the first.

    Args:
        file: as for :func:`read_table`.
        flag: option name used in messages.
        named: columns that the user has named.

    Raises:
        UserError: it cannot be read, or has no rows.
        NoHeaderError: its first row is that of an image.
    """
    given = [one for one in named if one is not None]
    columns = _parquet(file, flag, given) if file.suffix.lower() in PARQUET else _text(file, flag, given)
    if not columns or not next(iter(columns.values())):
        raise UserError(f"{flag} {file} has no rows; it needs a header and a row for each image")
    return columns


def paths_of(
    columns: Mapping[str, Sequence[Any]], given: str | None, file: Path, flag: str = "--data.path"
) -> tuple[str, list[str]]:
    """The column of paths and its cells, empty where there is none.

    Raises:
        UserError: there is no column ``given``, or none of paths.
    """
    name = _column(columns, given or _of_names(columns), PATH_COLUMNS, "path", file, flag)
    return name, ["" if is_missing(path) else str(path).strip() for path in columns[name]]


def _of_names(columns: Mapping[str, Sequence[Any]]) -> str | None:
    """The first column that begins with the name of an image; None: there is none, or one of a usual name."""
    if usual_column(list(columns), PATH_COLUMNS) is not None:
        return None
    return next((name for name, cells in columns.items() if _is_image(str(cells[0]))), None)


def _is_image(cell: str) -> bool:
    return ending_of(cell.strip()) in EXTENSIONS


def _column(
    columns: Mapping[str, Any], given: str | None, usual: Sequence[str], what: str, file: Path, flag: str
) -> str:
    some = ", ".join(list(columns)[:6])
    if given is not None and given not in columns:
        raise UserError(f"--data.{what}_column {given} is not a column of {file}; it has {some}")
    found = given or usual_column(list(columns), usual)
    if found is None:
        raise UserError(
            f"{flag} {file} has no column of {what}s; name it {what}"
            + (f", or give --data.{what}_column ({some})" if flag.startswith("--") else f" ({some})")
        )
    return found


def _text(file: Path, flag: str, named: Sequence[str]) -> dict[str, list[Any]]:
    try:
        text = text_of(file.read_bytes())
    except OSError as error:
        raise UserError(f"{flag} {file} cannot be read: {error.strerror}") from None
    lines = text.splitlines()
    if not lines or "\0" in text:
        raise UserError(f"{flag} {file} is {'no text file' if lines else 'empty'}; give a table with a header")
    # not guessed from more than the header: labels have separators of their own
    known = [name.lower() for name in (*named, *PATH_COLUMNS, *LABEL_COLUMNS)]
    delimiter = delimiter_of(file.name, lines[0], known) or max(DELIMITERS, key=lines[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        rows = [row for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise UserError(f"{flag} {file} is not a table, line {reader.line_num}: {error}") from None
    if not rows:
        raise UserError(f"{flag} {file} is empty; give a table with a header")
    header = [name.strip() for name in rows[0]]
    has_paths = any(name in header for name in named) or usual_column(header, PATH_COLUMNS) is not None
    if not has_paths and (image := next(filter(_is_image, header), None)):
        raise NoHeaderError(
            f"{flag} {file}: its first row has an image, {in_a_line(readable(image))}, and no names of columns; begin "
            f"it with a header such as path,label"
        )
    cells: dict[str, list[Any]] = {}
    for n, name in enumerate(header):
        cells.setdefault(name, [row[n] if n < len(row) else None for row in rows[1:]])
    return cells


def _parquet(file: Path, flag: str, named: Sequence[str]) -> dict[str, list[Any]]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"{flag} {file}: Parquet needs pyarrow; pip install 'fcmae[parquet]', or give a CSV") from None
    try:
        fitting = [one.name for one in parquet.read_schema(file) if one.name in named or may_hold_labels(one.type)]
        return parquet.read_table(file, columns=fitting).to_pydict()  # no masks, which may be called label, too
    except Exception as error:  # pyarrow has errors of its own
        raise UserError(f"{flag} {file} cannot be read: {' '.join(str(error).split())}") from None

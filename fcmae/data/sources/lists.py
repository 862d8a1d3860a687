"""Lists of paths: a text file with one path per line, or a CSV or TSV file with a column of paths."""

import codecs
import csv
import os
from pathlib import Path

from fcmae.data.endings import EXTENSIONS, ending_of
from fcmae.errors import UserError

TEXT, TABLES = (".txt", ".lst", ".list"), (".csv", ".tsv")
COLUMNS = (
    *("path", "paths", "file", "files", "filename", "file_name", "filepath", "file_path"),
    *("image", "images", "image_path", "img", "img_path", "image_id"),
)
"""Names of the column that holds the paths, in any case; the first found counts."""


def is_list(file: str) -> bool:
    """Whether a file is a list of paths, by its ending."""
    return os.path.splitext(file)[1].lower() in (*TEXT, *TABLES)


def listed_paths(file: str, flag: str = "--data.path") -> list[str]:
    """The paths in a list, in its order.

    Relative paths begin at the list's folder, or at the working directory if the first is not there but here.

    Raises:
        UserError: the list is empty, is no text, or no column of it holds paths.
    """
    text = _text(file)
    if os.path.splitext(file)[1].lower() in TABLES:
        paths = _column(file, text, flag)
    else:
        paths = [line.strip("\r\n") for line in text.split("\n") if line.strip()]
    if not paths:
        raise UserError(f"{flag} {file} lists no paths; give one path per line, or in a CSV file a column path")
    if "\0" in text:
        raise UserError(f"{flag} {file} is no list of paths: it is not a text file")
    beside = os.path.dirname(file)
    from_here = not os.path.exists(os.path.join(beside, paths[0])) and os.path.exists(paths[0])
    return [os.path.normpath(path if from_here else os.path.join(beside, path)) for path in paths]


def _text(file: str) -> str:
    """Bytes that are not UTF-8 survive, as in file names."""
    data = Path(file).read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    return os.fsdecode(data.removeprefix(codecs.BOM_UTF8))


def _column(file: str, text: str, flag: str) -> list[str]:
    lines = text.splitlines()
    try:
        dialect: type[csv.Dialect] | csv.Dialect = csv.Sniffer().sniff("\n".join(lines[:20]), delimiters=",;\t")
    except csv.Error:  # a single column
        dialect = csv.excel
    rows = [row for row in csv.reader(lines, dialect) if any(cell.strip() for cell in row)]
    if not rows:
        return []
    header = [cell.strip().lower() for cell in rows[0]]
    named = next((header.index(name) for name in COLUMNS if name in header), None)
    if named is not None:
        return [row[named].strip() for row in rows[1:] if len(row) > named and row[named].strip()]
    for body in (rows, rows[1:]):  # without a header, or with one that names the column otherwise
        for number, cell in enumerate(body[0] if body else []):
            if ending_of(cell.strip()) in EXTENSIONS:
                return [row[number].strip() for row in body if len(row) > number and row[number].strip()]
    raise UserError(f"{flag} {file} has no column of paths; name it path in the first line ({', '.join(rows[0][:5])})")

"""Lists of paths or URLs: a text file with one per line, or a CSV or TSV file with a column of them."""

import codecs
import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fcmae.data.endings import EXTENSIONS, ending_of
from fcmae.data.stores.urls import base, is_url, local_path
from fcmae.errors import UserError

DELIMITERS = ",\t;"
TEXT, TABLES = (".txt", ".lst", ".list"), (".csv", ".tsv")
COLUMNS = (
    *("path", "paths", "file", "files", "filename", "file_name", "filepath", "file_path"),
    *("image", "images", "image_path", "img", "img_path", "image_id"),
)
"""Names of the column that holds the paths, in any case; the first found counts."""


class Line(NamedTuple):
    """An entry of a list."""

    path: str
    """Where it leads, or a URL."""
    text: str
    """As in the list."""


def is_list(file: str) -> bool:
    """Whether a file is a list of paths, by its ending."""
    return os.path.splitext(file)[1].lower() in (*TEXT, *TABLES)


def listed_paths(file: str, flag: str = "--data.path", data: bytes | None = None) -> list[Line]:
    """The paths and URLs in a list, in its order.

    Relative paths begin at the list's folder, or at the working directory if the first is not there but here.

    Args:
        file: path or URL of the list.
        flag: option name used in messages.
        data: its contents; None: they are read from the path.

    Raises:
        UserError: the list is empty, is not text, or no column of it holds paths.
    """
    text = text_of(Path(file).read_bytes() if data is None else data)
    if os.path.splitext(file)[1].lower() in TABLES:
        paths = _column(file, text, flag)
    else:
        paths = [line.strip("\r\n") for line in text.split("\n") if line.strip()]
    if not paths:
        raise UserError(f"{flag} {file} lists no paths; give one path per line, or in a CSV file a column path")
    if "\0" in text:
        raise UserError(f"{flag} {file} is not a list of paths: it is not a text file")
    return all_joined(file, paths)


def all_joined(file: str, paths: Sequence[str]) -> list[Line]:
    """The paths in a list and where they lead, as :func:`listed_paths` says."""
    is_here = not is_url(file) and not is_url(paths[0]) and not os.path.exists(joined(file, paths[0]))
    from_here = is_here and os.path.exists(local_path(paths[0]))
    return [
        Line(os.path.normpath(path) if from_here and not is_url(path) else joined(file, path), path) for path in paths
    ]


def joined(file: str, path: str) -> str:
    """Where a path in a list leads: relative ones begin at its folder or, of a URL, below the same URL."""
    path = local_path(path)
    if is_url(path):
        return path
    if is_url(file) and not os.path.isabs(path):
        return f"{base(file)}/{os.path.normpath(path)}"
    return os.path.normpath(os.path.join(os.path.dirname(file), path))


def text_of(data: bytes) -> str:
    """The text of a file, UTF-8 or UTF-16 with a mark; bytes that are not UTF-8 survive, as in file names."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    return os.fsdecode(data.removeprefix(codecs.BOM_UTF8))


def delimiter_of(file: str, header: str, known: Sequence[str]) -> str | None:
    """What separates the columns of a table: of a .tsv the tab, if there is one; else what makes the most columns of
    known names, in any case, and of as many the most columns. None: none of the names is there.

    Args:
        file: name of the table.
        header: the first line.
        known: names in small letters.
    """

    def fit(delimiter: str) -> tuple[int, int]:
        names = [cell.strip().strip('"').lower() for cell in header.split(delimiter)]
        return sum(name in known for name in names), len(names)

    if file.lower().endswith(".tsv") and "\t" in header:
        return "\t"
    best = max(DELIMITERS, key=fit)
    return best if fit(best)[0] else None


def _column(file: str, text: str, flag: str) -> list[str]:
    lines = text.splitlines()
    if (delimiter := delimiter_of(file, lines[0] if lines else "", COLUMNS)) is not None:
        reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    else:
        try:
            reader = csv.reader(lines, csv.Sniffer().sniff("\n".join(lines[:20]), delimiters=DELIMITERS))
        except csv.Error:  # a single column
            reader = csv.reader(lines)
    rows = [row for row in reader if any(cell.strip() for cell in row)]
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

"""Parquet and Arrow files among local sources."""

import glob
import os

from fcmae.data.rows.files import is_row_file
from fcmae.data.rows.opening import Table
from fcmae.data.sources.entries import natural_key


def tables_in(source: str) -> list[Table]:
    """The tables that a source consists of: one, or those that a pattern matches; empty if it is of another kind."""
    if os.path.isfile(source):
        return [Table(source, os.path.basename(source))] if is_row_file(source) else []
    if not glob.has_magic(source):
        return []
    found = sorted(glob.glob(source, recursive=True), key=natural_key)
    are_tables = all(is_row_file(path) and os.path.isfile(path) for path in found)
    return [Table(path, os.path.basename(path)) for path in found] if are_tables else []


def tables_below(folder: str) -> list[Table]:
    """The tables in a folder and its subfolders, in natural order of their names, without hidden ones."""
    names = [name for name in glob.glob("**", root_dir=folder, recursive=True) if is_row_file(name)]
    return [Table(os.path.join(folder, name), name) for name in sorted(names, key=natural_key)]

"""Parquet and Arrow files among local sources."""

import os
from collections.abc import Sequence

from fcmae.data.rows.files import is_row_file
from fcmae.data.rows.opening import Table
from fcmae.data.sources.entries import natural_key


def tables_of(paths: Sequence[str]) -> list[Table]:
    """The tables at these paths; empty if one of them is something else."""
    are_tables = all(is_row_file(path) and os.path.isfile(path) for path in paths)
    return [Table(path, os.path.basename(path)) for path in paths] if are_tables else []


def tables_below(folder: str) -> list[Table]:
    """The tables in a folder and its subfolders, in natural order of their names, without hidden ones."""
    found = []
    for above, folders, files in os.walk(folder):
        folders[:] = [one for one in folders if not one.startswith(".")]
        inside = os.path.relpath(above, folder)
        found += [os.path.normpath(os.path.join(inside, one)) for one in files if is_row_file(one) and one[0] != "."]
    return [Table(os.path.join(folder, name), name) for name in sorted(found, key=natural_key)]

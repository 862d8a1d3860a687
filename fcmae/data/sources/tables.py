"""Parquet and Arrow files among local sources."""

import os
from collections.abc import Sequence

from fcmae.data.rows.files import is_row_file
from fcmae.data.rows.opening import Table
from fcmae.data.sources.entries import in_natural_order
from fcmae.runs.layout import is_run_folder


def tables_of(paths: Sequence[str]) -> list[Table]:
    """The tables at these paths, with names that begin at the folder of all; empty if one of them is something else."""
    if not paths or not all(is_row_file(path) and os.path.isfile(path) for path in paths):
        return []
    base = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    return [Table(path, os.path.relpath(os.path.abspath(path), base)) for path in paths]


def tables_below(folder: str) -> list[Table]:
    """The tables in a folder and its subfolders, in natural order of their names; not hidden ones or those of runs."""
    found = []
    for above, folders, files in os.walk(folder):
        folders[:] = [one for one in folders if one[0] != "." and not is_run_folder(os.path.join(above, one))]
        inside = os.path.relpath(above, folder)
        found += [os.path.normpath(os.path.join(inside, one)) for one in files if is_row_file(one) and one[0] != "."]
    return [Table(os.path.join(folder, name), name) for name in in_natural_order(found, str)]

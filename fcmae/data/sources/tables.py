"""Parquet and Arrow files among local sources."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from fcmae.data.rows.files import is_row_file
from fcmae.data.rows.opening import Table
from fcmae.data.sources.entries import in_natural_order
from fcmae.runs.layout import is_run_folder

STATE, INFO, CACHE = "state.json", "dataset_info.json", "cache-"
"""In folders of ``datasets``: what ``save_to_disk`` has written, what describes a dataset, a result of ``map``."""


def tables_of(paths: Sequence[str]) -> list[Table]:
    """The tables at these paths, with names that begin at the folder of all; empty if one of them is something else."""
    if not paths or not all(is_row_file(path) and os.path.isfile(path) for path in paths):
        return []
    base = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    return [Table(path, os.path.relpath(os.path.abspath(path), base)) for path in paths]


def tables_below(folder: str) -> list[Table]:
    """The tables in a folder and its subfolders, in natural order of their names.

    Not hidden ones, those of runs, or what ``datasets`` keeps of its own computations beside its files.
    """
    found = []
    for above, folders, files in os.walk(folder):
        folders[:] = [one for one in folders if one[0] != "." and not is_run_folder(os.path.join(above, one))]
        inside = os.path.relpath(above, folder)
        tables = [one for one in files if is_row_file(one) and one[0] != "."]
        found += [os.path.normpath(os.path.join(inside, one)) for one in _without_caches(above, tables, files)]
    return [Table(os.path.join(folder, name), name) for name in in_natural_order(found, str)]


def _without_caches(folder: str, tables: list[str], files: Sequence[str]) -> list[str]:
    """Of a folder that ``datasets`` has made, the tables of the dataset: after ``map`` its result is there, too."""
    if STATE in files:
        try:
            named = {one["filename"] for one in json.loads(Path(folder, STATE).read_bytes())["_data_files"]}
            return [one for one in tables if one in named]
        except (OSError, ValueError, LookupError, TypeError):  # of another program
            return tables
    return [one for one in tables if not one.startswith(CACHE)] if INFO in files else tables

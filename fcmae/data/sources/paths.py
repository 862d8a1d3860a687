"""Image files at paths that were given one by one: files, and folders with what is in them; never those of runs."""

import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from fcmae.data.sources.entries import Entry, Survey, entry, folder_entry
from fcmae.data.sources.lists import Line
from fcmae.data.sources.walk import walk
from fcmae.errors import UserError
from fcmae.runs.layout import PICTURES, is_run_folder

ACCEPTED = (
    "give a folder of images, image files, a glob in quotes, .tar or .zip archives, .parquet files, a list of paths "
    "(.txt, .csv), or any of these by URL"
)


def entries_of_each(lines: Sequence[Line], survey: Survey, leave_out: Path | None, flag: str) -> Iterator[list[Entry]]:
    """The images at each path, one or those of a folder; none in run folders. Names begin at the folder of all paths.

    ``survey`` records everything else, files that are not there among it.

    Raises:
        OSError: a folder cannot be listed; UserError: all paths are in a run folder.
    """
    whole = [os.path.abspath(path) for path, _ in lines]
    base = os.path.commonpath([os.path.dirname(path) for path in whole]) if whole else ""
    if whole:
        check_is_no_run(base, leave_out, flag)

    @cache
    def run_above(folder: str) -> str | None:
        if len(folder) <= len(base):
            return None
        is_run = is_run_folder(folder) or (leave_out is not None and is_same(folder, leave_out))
        return folder if is_run else run_above(os.path.dirname(folder))

    for (path, given), absolute in zip(lines, whole, strict=True):
        is_folder = os.path.isdir(absolute)
        name = os.path.relpath(absolute, base)
        if (run := run_above(absolute if is_folder else os.path.dirname(absolute))) is not None:
            if run not in survey.runs:
                survey.runs.append(run)
            yield []
        elif is_folder and (image := folder_entry(path, name, is_linked=os.path.islink(path))) is not None:
            yield [image._replace(given=given)]
        elif is_folder:
            inside = walk(path, survey, leave_out)
            yield [_below(one, name, given) for one in inside]
        else:
            one = entry(path, name, survey, is_linked=os.path.islink(path), is_expected=True)
            yield [] if one is None else [one._replace(given=given)]


def _below(one: Entry, name: str, given: str) -> Entry:
    """An image of a folder, of those of several paths."""
    return one._replace(name=os.path.join(name, one.name), given=os.path.join(given, one.name))


def check_is_no_run(folder: str, leave_out: Path | None, flag: str) -> None:
    """UserError for a run folder itself, the pictures in one, or the folder that a run will be written to."""
    whole = Path(folder).resolve()
    for run in (whole, whole.parent):
        if is_run_folder(run) and (run == whole or whole.name == PICTURES):
            raise UserError(f"{flag} {folder} belongs to a run; its pictures are no training images; {ACCEPTED}")
    if leave_out is not None and is_same(folder, leave_out):
        raise UserError(f"--output {leave_out} is the folder of the images, {flag}; give another")


def is_same(folder: str | Path, other: str | Path) -> bool:
    """Whether two paths are one folder, also one that is not there yet."""
    try:
        return os.path.samefile(folder, other)
    except OSError:  # one of them is not there yet
        return os.path.abspath(folder) == os.path.abspath(other)

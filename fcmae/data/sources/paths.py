"""Image files at paths that were given one by one: files, and folders with what is in them; never those of runs."""

import glob
import os
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import takewhile
from pathlib import Path

from fcmae.data.endings import EXTENSIONS, ending_of
from fcmae.data.sources.entries import Entry, Survey, entry, folder_entry
from fcmae.data.sources.lists import Line
from fcmae.data.sources.walk import walk
from fcmae.data.stores.urls import is_url, local_path
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
        is_run = is_run_folder(folder) or (leave_out is not None and _same(folder, leave_out))
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
    if leave_out is not None and _same(folder, leave_out):
        raise UserError(f"--output {leave_out} is the folder of the images, {flag}; give another")


def check_output_apart(sources: str | Sequence[str] | None, output: Path) -> None:
    """UserError for a run folder to be that is the folder of the images, or one of its folders with images: they would
    be those of a run, and no training images any more."""
    if not output.is_dir() or is_run_folder(output):
        return
    for source in map(local_path, [sources] if isinstance(sources, str) else sources or ()):
        folder = source if os.path.isdir(source) else _plain(source)
        if is_url(source) or not folder or not os.path.isdir(folder):
            continue
        if _same(folder, output):
            raise UserError(f"--output {output} is the folder of the images, --data.path; give another")
        if Path(folder).resolve() in output.resolve().parents and (image := _first_image(output)) is not None:
            raise UserError(f"--output {output} holds images of --data.path {source}, {image}; give another")


def _plain(pattern: str) -> str:
    """The folder that a pattern begins with; empty: it is none."""
    is_pattern = glob.has_magic(pattern) and not os.path.lexists(pattern)
    return str(Path(*takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts))) if is_pattern else ""


def _first_image(folder: Path) -> str | None:
    for above, folders, files in os.walk(folder):
        folders[:] = [one for one in folders if not one.startswith(".")]
        for name in files:
            if ending_of(name) in EXTENSIONS and not name.startswith("."):
                return os.path.relpath(os.path.join(above, name), folder)
    return None


def _same(folder: str | Path, other: str | Path) -> bool:
    try:
        return os.path.samefile(folder, other)
    except OSError:  # one of them is not there yet
        return os.path.abspath(folder) == os.path.abspath(other)

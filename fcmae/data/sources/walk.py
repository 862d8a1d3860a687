"""Finds the image files of a folder and its subfolders; circular links and run folders do no harm."""

import os
from pathlib import Path

from fcmae.data.sources.entries import Entry, Survey, entry, folder_entry, in_natural_order
from fcmae.runs.layout import is_run_folder

Identity = tuple[int, int]


def walk(root: str, survey: Survey, leave_out: Path | None = None) -> list[Entry]:
    """Every image file, OME-Zarr folders among them, in natural order of the paths.

    Hidden files and folders are skipped, and so are run folders, ``leave_out`` among them. A folder that links reach
    several times is entered once, by its own name if that is inside too; one above ``root`` is not entered at all.
    ``survey`` records everything else.

    Raises:
        OSError: ``root`` cannot be listed.
    """
    if (itself := folder_entry(root, os.path.basename(os.path.abspath(root)))) is not None:
        return [itself]
    above = Path(root).resolve().parents
    entered = {identity for folder in above if (identity := _identity(folder)) is not None}
    kept_out = None if leave_out is None else _identity(leave_out)
    found: list[Entry] = []
    archives_before = len(survey.archives)
    waiting: list[tuple[str, str, bool]] = [(root, "", False)]  # path, name, reached by a link
    linked: list[tuple[str, str, bool]] = []
    while waiting:
        while waiting:
            folder, name, by_link = waiting.pop()
            identity = _identity(folder)
            if identity is None or identity in entered:
                continue
            entered.add(identity)
            try:
                with os.scandir(folder) as scanned:
                    inside = [one for one in scanned if not one.name.startswith(".")]
            except OSError as error:
                if folder == root:
                    raise
                survey.closed[folder] = str(error.strerror)
                continue
            if name and (identity == kept_out or is_run_folder(folder)):
                survey.runs.append(folder)
                continue
            for one in inside:
                path, its_name = os.path.join(folder, one.name), os.path.join(name, one.name)
                if not _is_folder(one):
                    file = entry(path, its_name, survey, is_linked=by_link or one.is_symlink())
                    found += [] if file is None else [file]
                elif (image := folder_entry(path, its_name, is_linked=by_link or one.is_symlink())) is not None:
                    found.append(image)
                elif one.is_symlink():
                    linked.append((path, its_name, True))
                else:
                    waiting.append((path, its_name, by_link))
        linked = in_natural_order(linked, lambda one: one[0])
        if linked:
            waiting.append(linked.pop(0))
    survey.archives[archives_before:] = in_natural_order(survey.archives[archives_before:], str)
    return in_natural_order(found, lambda file: file.path)


def _is_folder(one: "os.DirEntry[str]") -> bool:
    try:
        return one.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(folder: str | Path) -> Identity | None:
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_dev, found.st_ino

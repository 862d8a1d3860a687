"""A run is not written among its images: they would be those of a run, and no training images any more."""

import os
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from fcmae.data.rows.images import RowImage
from fcmae.data.sources.archives.member import Member
from fcmae.data.sources.archives.names import expanded
from fcmae.data.sources.entries import Entry, Survey
from fcmae.data.sources.image_set import ImageSet
from fcmae.data.sources.paths import is_same
from fcmae.data.sources.source import images_of
from fcmae.data.stores.access import Access
from fcmae.data.stores.urls import is_url, local_path
from fcmae.errors import UserError
from fcmae.runs.layout import is_run_folder


def check_output_apart(sources: str | Sequence[str] | None, output: Path, access: Access) -> None:
    """Looks at the images only where the folder is there, not empty and no run.

    Raises:
        UserError: the folder is that of the images, or one of their folders and has some of them.
    """
    if not output.is_dir() or is_run_folder(output) or not any(output.iterdir()):
        return
    given = expanded([sources] if isinstance(sources, str) else sources or ())
    for source in (one for one in given if not is_url(one)):
        if is_same(local_path(source), output):
            raise UserError(f"--output {output} is the folder of the images, --data.path; give another")
        try:
            found = images_of(source, Survey(), None, "--data.path", access)
        except UserError:  # it is raised again, and says what is wrong, where the images are read
            continue
        if (image := _first_inside(_holders(found), output)) is not None:
            raise UserError(f"--output {output} holds images of --data.path {source}, {image}; give another")


def _holders(found: Iterable[Entry] | ImageSet) -> Iterable[str]:
    """The files that are images or hold them."""
    for one in found:
        if isinstance(one, Entry | Path):
            yield str(one.path if isinstance(one, Entry) else one)
        elif isinstance(one, Member):
            yield one.archive
        elif isinstance(one, RowImage):
            yield one.file.where


def _first_inside(files: Iterable[str], output: Path) -> str | None:
    """The first of the files that is in the folder, unless all are in one subfolder of it: then the run is above the
    set, and not in it."""
    real = cache(os.path.realpath)
    within, first, folders = os.path.join(real(output), ""), None, set()
    for file in files:
        folder = os.path.join(real(os.path.dirname(file) or "."), "")
        folders.add(folder)
        if first is None and folder.startswith(within):
            first = os.path.join(folder, os.path.basename(file))
    if first is None:
        return None
    common = os.path.join(os.path.commonpath(folders), "")
    is_above = common != within and common.startswith(within)
    return None if is_above else os.path.relpath(first, within)

"""What a value of ``--data.path`` stands for: a folder, a glob, a list of paths, or image files."""

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from fcmae.data.endings import EXTENSIONS
from fcmae.data.rows.files import ENDINGS
from fcmae.data.rows.opening import Table, of_split
from fcmae.data.sources.archives.images import archive_images
from fcmae.data.sources.archives.names import expanded, is_archive, is_compressed_tar
from fcmae.data.sources.entries import Entry, Survey, entry, in_natural_order, kind
from fcmae.data.sources.image_set import ImageSet
from fcmae.data.sources.lists import Line, is_list, listed_paths
from fcmae.data.sources.paths import ACCEPTED, check_is_no_run, entries_of_each
from fcmae.data.sources.remote import listed_images, remote_archives, remote_images, table_images, why_compressed
from fcmae.data.sources.tables import tables_below, tables_of
from fcmae.data.sources.walk import walk
from fcmae.data.stores.access import Access
from fcmae.data.stores.urls import is_url, local_path
from fcmae.errors import UserError

UNSET = "???"
"""What a recipe says where the user must name the images."""


def check_there(sources: str | Sequence[str] | None, flag: str = "--data.path") -> None:
    """UserError for a source that does not exist. Looks at no file, so it is quick for any set."""
    for source in expanded([sources] if isinstance(sources, str) else sources or ()):
        if source == UNSET:
            raise UserError(_missing(flag))
        if is_url(source):
            continue
        source = local_path(source)
        if not os.path.exists(source) and not glob.has_magic(source):
            raise UserError(f"{flag} {source} {_why_not(source)}; {ACCEPTED}")


def _missing(flag: str) -> str:
    return f"{flag} is missing: the recipe trains on your own images; {ACCEPTED}"


def images_of(
    source: str | Sequence[str], survey: Survey, leave_out: Path | None, flag: str, access: Access
) -> list[Entry] | ImageSet:
    """The images of one source, files or another set; several image files are one. ``flag`` is for messages.

    Raises:
        UserError: it does not exist, is of another kind, cannot be read, or holds no images.
    """
    named = source if isinstance(source, str) else source[0]
    if named == UNSET:
        raise UserError(_missing(flag))
    found: list[Entry] | ImageSet
    try:
        if isinstance(source, str) and is_url(source):
            return remote_images(source, access, survey, leave_out, flag)
        if not isinstance(source, str) and is_url(source[0]):
            return remote_archives(source, access, survey, leave_out, flag)
        source = local_path(source) if isinstance(source, str) else source
        if not isinstance(source, str) and (tables := tables_of(source)):
            return _of_tables(tables, f"{named} …", survey, leave_out, flag, access)
        if not isinstance(source, str) or (os.path.isfile(source) and is_archive(source)):
            lines = [Line(source, named)] if isinstance(source, str) else [Line(one, one) for one in source]
            if packed := next((one.path for one in lines if is_compressed_tar(one.path)), None):
                raise UserError(why_compressed(packed, flag))
            found, looked = _of_paths(lines, survey, leave_out, flag), "among the files given"
        elif os.path.isdir(source):
            found, looked = _of_folder(source, survey, leave_out, flag), "in it and its subfolders"
            has_tables = not found and any(ending in survey.passed_over for ending in ENDINGS)
            if has_tables and (tables := tables_below(source)):
                survey.passed_over -= Counter(os.path.splitext(one.where)[1].lower() for one in tables)
                return _of_tables(tables, source, survey, leave_out, flag, access)
        elif os.path.isfile(source) and is_list(source):
            return _of_list(listed_paths(source, flag), source, survey, leave_out, flag, access)
        elif os.path.isfile(source) and (tables := tables_of([source])):
            return _of_tables(tables, source, survey, leave_out, flag, access)
        elif glob.has_magic(source) and not os.path.lexists(source):
            matches = list(_matches(source))
            lines = [Line(one, one) for one in matches]
            if matches and (tables := tables_of(matches)):
                return _of_tables(tables, source, survey, leave_out, flag, access)
            found, looked = _of_paths(lines, survey, leave_out, flag), "among what it matches"
        elif os.path.isfile(source) and entry(source, source, Survey()) is not None:
            found, looked = _of_paths([Line(source, named)], survey, leave_out, flag), "at it"
        else:
            raise UserError(f"{flag} {source} {_why_not(source)}; {ACCEPTED}")
    except OSError as error:
        where = error.filename if isinstance(error.filename, str) else named
        raise UserError(f"{flag} {where} cannot be read: {error.strerror}") from None
    return _some(found, named, looked, survey, flag)


def _some(found: list[Entry] | ImageSet, source: str, looked: str, survey: Survey, flag: str) -> list[Entry] | ImageSet:
    """What was found, if anything."""
    if not found:
        raise UserError(
            f"{flag} {source} holds no images; looked {looked} for {' '.join(sorted(EXTENSIONS))}{_met(survey)}"
        )
    return found


def _of_list(
    lines: list[Line], source: str, survey: Survey, leave_out: Path | None, flag: str, access: Access
) -> list[Entry] | ImageSet:
    """Images at these paths and URLs."""
    if any(is_url(line.path) for line in lines):
        return listed_images(lines, source, access, survey, leave_out, flag)
    return _some(_of_paths(lines, survey, leave_out, flag), source, "at the paths in it", survey, flag)


def _of_tables(
    tables: list[Table], source: str, survey: Survey, leave_out: Path | None, flag: str, access: Access
) -> list[Entry] | ImageSet:
    """The rows of tables, or images at the paths in them."""
    survey.tables += len(tables)
    found = table_images(of_split(tables, access.split, source, flag), access, survey, flag)
    return found if isinstance(found, ImageSet) else _of_list(found, source, survey, leave_out, flag, access)


def _of_folder(folder: str, survey: Survey, leave_out: Path | None, flag: str) -> list[Entry] | ImageSet:
    check_is_no_run(folder, leave_out, flag)
    before = len(survey.archives)
    found = walk(folder, survey, leave_out)
    return found or _in_archives(survey.archives[before:], survey, leave_out, flag)


def _in_archives(archives: list[str], survey: Survey, beside: Path | None, flag: str) -> list[Entry] | ImageSet:
    """Where there are no image files: what archives hold."""
    plain = [path for path in archives if not is_compressed_tar(path)]
    if archives and not plain:
        raise UserError(why_compressed(archives[0], flag))
    for path in plain:
        survey.passed_over[os.path.splitext(path)[1].lower()] -= 1
    survey.passed_over = +survey.passed_over
    return archive_images(plain, survey, beside) if plain else []


def _of_paths(lines: Sequence[Line], survey: Survey, leave_out: Path | None, flag: str) -> list[Entry] | ImageSet:
    """Files, and the images of folders, or if there are none those in archives. Those in run folders are left out."""
    before = len(survey.archives)
    found = [one for inside in entries_of_each(lines, survey, leave_out, flag) for one in inside]
    return found or _in_archives(survey.archives[before:], survey, leave_out, flag)


def _matches(pattern: str) -> Iterator[str]:
    """Paths that match, in natural order: no hidden ones unless asked for, and nothing below a folder that matches.

    Links to folders are not followed by ``**``: two of them to a folder above would never end.
    """
    parts = Path(pattern).parts
    plain = next(n for n, part in enumerate(parts) if glob.has_magic(part))
    base, rest = Path(*parts[:plain]), parts[plain:]
    wants_hidden = any(part.startswith(".") for part in rest)
    folders: set[Path] = set()
    for path in in_natural_order(base.glob(str(Path(*rest))), str):
        if not wants_hidden and any(part.startswith(".") for part in path.relative_to(base).parts):
            continue
        if folders.isdisjoint(path.parents):
            if path.is_dir():
                folders.add(path)
            yield str(path)


def _why_not(source: str) -> str:
    try:
        return f"is {kind(os.stat(source).st_mode)}, not a folder"
    except OSError:
        tilde = " (the shell leaves ~ as it is after = and in quotes)" if source.startswith("~") else ""
        return "is a broken link" if os.path.islink(source) else f"does not exist{tilde}"


def _met(survey: Survey) -> str:
    """What the search found instead of images, for the error."""
    return "".join(f"; {line}" for line in survey.lines())

"""What a URL among the sources stands for: a folder or pattern of a bucket, a list, tables, a dataset of the hub."""

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from fcmae.data.endings import EXTENSIONS, ending_of
from fcmae.data.rows.files import is_row_file
from fcmae.data.rows.opening import Table, of_split, row_images
from fcmae.data.sources.archives.images import archive_images
from fcmae.data.sources.archives.names import is_archive, is_compressed_tar
from fcmae.data.sources.entries import NO_ENDING, Survey
from fcmae.data.sources.image_set import ImageSet
from fcmae.data.sources.lists import Line, all_joined, is_list, listed_paths
from fcmae.data.sources.paths import entries_of_each
from fcmae.data.sources.same import first_of_each
from fcmae.data.stores.access import Access
from fcmae.data.stores.fetching import FetchError, downloaded, file_system
from fcmae.data.stores.hub import hub_files, is_hub_name, warn_if_partial
from fcmae.data.stores.images import UrlImages, label
from fcmae.data.stores.listing import Listed, listed
from fcmae.data.stores.urls import has_magic, is_url, last_part, protocol, shown, why_invalid
from fcmae.data.zarr_folders import zarr_of
from fcmae.errors import UserError


def remote_images(url: str, access: Access, survey: Survey, beside: Path | None, flag: str) -> ImageSet:
    """The images of one URL. ``beside``: the run folder, see :func:`fcmae.data.sources.archives.index.index_of`.

    Raises:
        UserError: it cannot be reached, a package or credentials are missing, or it holds no images.
    """
    if access.cache_dir:
        access.cache.check()
    if is_hub_name(url):
        return _of_files(url, hub_files(url, access, flag), access, survey, beside, flag)
    if why := why_invalid(url):
        raise UserError(f"{flag} {shown(url)} is not a URL: {why}")
    file_system(url, access)
    name = last_part(url)
    if not has_magic(url) and is_list(name):
        try:
            text = downloaded(url, access)
        except FetchError as error:
            raise UserError(f"{flag} {shown(url)} cannot be fetched: {error}") from None
        return listed_images(listed_paths(url, flag, text), url, access, survey, beside, flag)
    if not has_magic(url) and is_row_file(name):
        return _of_files(url, [Listed(url, name, None, "")], access, survey, beside, flag)
    if not has_magic(url) and is_archive(url):
        return remote_archives([url], access, survey, beside, flag)
    return _of_files(url, listed(url, access, flag), access, survey, beside, flag)


def remote_archives(urls: Sequence[str], access: Access, survey: Survey, beside: Path | None, flag: str) -> ImageSet:
    """The images in archives.

    Raises:
        UserError: one is compressed as a whole or cannot be fetched, or they hold no images.
    """
    if broken := next(filter(why_invalid, urls), None):
        raise UserError(f"{flag} {shown(broken)} is not a URL: {why_invalid(broken)}")
    if packed := next(filter(is_compressed_tar, urls), None):
        raise UserError(why_compressed(shown(packed), flag))
    try:
        found = archive_images(urls, survey, beside, access)
    except FetchError as error:
        raise UserError(f"{flag} {shown(error.url)} cannot be fetched: {error}") from None
    return found or _nothing(urls[0], survey, flag)


def listed_images(
    lines: Sequence[Line], source: str, access: Access, survey: Survey, leave_out: Path | None, flag: str
) -> ImageSet:
    """Images of a list, some or all of which are URLs; at its local paths as in a list without URLs.

    Raises:
        UserError: a URL is none, a package is missing, or there are no images.
    """
    urls = [path for path, _ in lines if is_url(path)]
    if broken := next(filter(why_invalid, urls), None):
        raise UserError(f"{flag} {shown(source)}: {shown(broken)} is not a URL: {why_invalid(broken)}")
    for one in {protocol(url): url for url in urls}.values():
        file_system(one, access)  # or a package is missing
    found = entries_of_each([line for line in lines if not is_url(line.path)], survey, leave_out, flag)
    files: list[Listed] = []
    seen: set[tuple[int, ...] | str] = set()
    for path, given in lines:
        if not is_url(path):
            inside = next(found)
            new = [one for one in inside if one.identity not in seen]
            seen.update(one.identity for one in new)
            survey.repeated += len(inside) - len(new)
            files += [Listed(one.path, one.name, one.size, "", one.given) for one in new]
        elif zarr := zarr_of(shown(path)):
            survey.zarrs.add(zarr)
        elif path in seen:
            survey.repeated += 1
        else:
            seen.add(path)
            files.append(Listed(path, label(path), None, "", given))
    return UrlImages(files, access) if files else _nothing(source, survey, flag)


def table_images(tables: list[Table], access: Access, survey: Survey, flag: str) -> ImageSet | list[Line]:
    """Rows of images; or the paths in the column of these tables, of which some may be URLs."""
    # of labeled ones the two parts are told apart first
    once = list(tables) if access.all_splits else first_of_each(tables, lambda one: one.where)
    survey.repeated += len(tables) - len(once)
    found = row_images(once, access, flag)
    if isinstance(found, ImageSet):
        return found
    return [line for file, paths in found for line in all_joined(file, paths)]


def _of_files(
    url: str, files: list[Listed], access: Access, survey: Survey, beside: Path | None, flag: str
) -> ImageSet:
    """The image files among these; if there are none, the rows of the tables, or what the archives hold."""
    zarrs = [zarr_of(shown(file.url)) for file in files]
    survey.zarrs.update(filter(None, zarrs))
    files = [file for file, zarr in zip(files, zarrs, strict=True) if zarr is None]
    images = [file for file in files if _ending(file) in EXTENSIONS]
    tables = [Table(file.url, file.name) for file in files if is_row_file(last_part(file.url))]
    if tables and not images:
        survey.tables += len(tables)
        chosen = of_split(tables, access.split, url, flag)
        if protocol(url) == "hf":
            warn_if_partial(shown(url), [table.name for table in chosen])
        found = table_images(chosen, access, survey, flag)
        return found if isinstance(found, ImageSet) else listed_images(found, url, access, survey, beside, flag)
    archives = [file.url for file in files if is_archive(file.url)]
    if archives and not images:
        return remote_archives(archives, access, survey, beside, flag)
    for file in files:
        if _ending(file) not in EXTENSIONS:
            survey.passed_over[_ending(file) or NO_ENDING] += 1
    return UrlImages(images, access) if images else _nothing(url, survey, flag)


def _nothing(url: str, survey: Survey, flag: str) -> NoReturn:
    met = "".join(f"; {line}" for line in survey.lines())
    raise UserError(f"{flag} {shown(url)} holds no images{met}")


def why_compressed(path: str, flag: str) -> str:
    """Why a compressed tar is not read."""
    return f"{flag} {path} is compressed as a whole, so no image in it can be read alone; give a plain .tar or a .zip"


def _ending(file: Listed) -> str:
    return ending_of(last_part(file.url))

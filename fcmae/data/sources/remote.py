"""What a URL among the sources stands for: a folder or pattern of a bucket, a list, tables, a dataset of the hub."""

from fcmae.data.endings import EXTENSIONS, ending_of
from fcmae.data.rows.files import is_row_file
from fcmae.data.rows.opening import Table, of_split, row_images
from fcmae.data.sources.entries import NO_ENDING, Survey
from fcmae.data.sources.image_set import ImageSet
from fcmae.data.sources.lists import all_joined, is_list, listed_paths
from fcmae.data.stores.access import Access
from fcmae.data.stores.fetching import FetchError, downloaded, file_system
from fcmae.data.stores.hub import hub_files, is_hub_name
from fcmae.data.stores.images import UrlImages, label
from fcmae.data.stores.listing import Listed, listed
from fcmae.data.stores.urls import has_magic, is_url, last_part, shown
from fcmae.errors import UserError


def remote_images(url: str, access: Access, survey: Survey, flag: str) -> ImageSet:
    """The images of one URL.

    Raises:
        UserError: it cannot be reached, a package or credentials are missing, or it holds no images.
    """
    if access.cache_dir:
        access.cache.check()
    if is_hub_name(url):
        return _of_files(url, hub_files(url, access, flag), access, survey, flag)
    file_system(url, access)
    name = last_part(url)
    if not has_magic(url) and is_list(name):
        try:
            text = downloaded(url, access)
        except FetchError as error:
            raise UserError(f"{flag} {shown(url)} cannot be fetched: {error}") from None
        return listed_images(listed_paths(url, flag, text), access)
    if not has_magic(url) and is_row_file(name):
        return _of_files(url, [Listed(url, name, None, "")], access, survey, flag)
    return _of_files(url, listed(url, access, flag), access, survey, flag)


def listed_images(paths: list[str], access: Access) -> UrlImages:
    """Images of a list, some or all of which are URLs."""
    for one in {path.partition(":")[0]: path for path in paths if is_url(path)}.values():
        file_system(one, access)  # or a package is missing
    return UrlImages([Listed(path, label(path) if is_url(path) else path, None, "") for path in paths], access)


def table_images(tables: list[Table], access: Access, flag: str) -> ImageSet | list[str]:
    """Rows of images; or the paths in the column of these tables, of which some may be URLs."""
    found = row_images(tables, access, flag)
    if isinstance(found, ImageSet):
        return found
    return [path for file, paths in found for path in all_joined(file, paths)]


def _of_files(url: str, files: list[Listed], access: Access, survey: Survey, flag: str) -> ImageSet:
    """The image files among these; if there are none, the rows of the tables."""
    images = [file for file in files if _ending(file) in EXTENSIONS]
    tables = [Table(file.url, file.name) for file in files if is_row_file(last_part(file.url))]
    if tables and not images:
        found = table_images(of_split(tables, access.split, url, flag), access, flag)
        return found if isinstance(found, ImageSet) else listed_images(found, access)
    for file in files:
        if _ending(file) not in EXTENSIONS:
            survey.passed_over[_ending(file) or NO_ENDING] += 1
    if not images:
        met = "".join(f"; {line}" for line in survey.lines())
        raise UserError(f"{flag} {shown(url)} holds no images{met}")
    return UrlImages(images, access)


def _ending(file: Listed) -> str:
    return ending_of(last_part(file.url))

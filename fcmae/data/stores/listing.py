"""What a URL stands for: a file, a folder of a bucket, a pattern, or a web page that lists files."""

from typing import Any, NamedTuple

from fcmae.data.endings import EXTENSIONS, ending_of
from fcmae.data.sources.entries import in_natural_order
from fcmae.data.stores.access import Access
from fcmae.data.stores.fetching import PATIENCE, FetchError, described, repeated
from fcmae.data.stores.urls import has_magic, last_part, protocol, shown
from fcmae.errors import UserError


class Listed(NamedTuple):
    """A file of a store."""

    url: str
    name: str
    """Relative to what was asked for."""
    size: int | None
    """Bytes, where the store says so."""
    version: str
    """Changes with the file; empty where the store says nothing."""
    given: str | None = None
    """As in the list that names it; None: it was found in a folder or by a pattern."""


def listed(url: str, access: Access, flag: str = "--data.path") -> list[Listed]:
    """All files in and below a folder, or that match a pattern, in natural order of their names; or the file itself.

    Hidden files and folders are left out.

    Raises:
        UserError: there is nothing, or the store cannot be reached.
    """
    is_pattern = has_magic(url)
    if not is_pattern and ending_of(last_part(url)) in EXTENSIONS:
        return [Listed(url, last_part(url), None, "")]

    def call(fs: Any, path: str) -> dict[str, dict[str, Any]]:
        found = fs.glob(path, detail=True) if is_pattern else fs.find(path, detail=True)
        files = {name: info for name, info in found.items() if info.get("type", "file") == "file"}
        return {fs.unstrip_protocol(name): info for name, info in files.items()}

    try:
        found = repeated(url, access, call, access.timeout * PATIENCE)
        if not found:  # fsspec may have met an error, and passed over it
            folder = _above_wildcards(url) if is_pattern else url
            repeated(folder, access, lambda fs, path: fs.ls(path, detail=False), access.timeout * PATIENCE)
    except FetchError as error:
        if error.is_absent:
            raise UserError(f"{flag} {shown(url)} is not there") from error
        raise UserError(f"{flag} {shown(url)} cannot be listed: {error}") from error
    if not found:
        raise UserError(f"{flag} {shown(url)} is not there, or holds no files that can be listed")
    files = []
    for one, info in found.items():
        name = _name(one, url)
        if not any(folder.startswith(".") for folder in name.split("/")):
            files.append(Listed(one, name, *described(info)))
    return in_natural_order(files, lambda file: file.name)


def _name(file: str, url: str) -> str:
    """A file's name relative to the folder or pattern it was found by."""
    beginning = _above_wildcards(url) if has_magic(url) else f"{url.rstrip('/')}/"
    found, start = (text.split("://", 1)[1].lstrip("/") for text in (file, beginning))
    return found.removeprefix(start) if found.startswith(start) else last_part(file)


def _above_wildcards(pattern: str) -> str:
    """The folder above the first part of a pattern that has a wildcard."""
    parts = pattern.split("/")
    first = next(n for n, part in enumerate(parts) if has_magic(f"{protocol(pattern)}:{part}"))
    return "/".join(parts[:first]) + "/"

"""Large image files behind URLs that are read by windows: which they are, and how they are opened."""

import io
from collections.abc import Callable
from functools import lru_cache

from fcmae.data.endings import EXTENSIONS, ending_of
from fcmae.data.stores.access import Access
from fcmae.data.stores.fetching import FetchError, details, is_fetched, sends_parts
from fcmae.data.stores.remote_file import BLOCK, BUFFER, RemoteFile
from fcmae.data.stores.urls import last_part

WHOLE = 2**24
"""Bytes up to which a file is fetched whole, in two requests: it then serves all of its crops, in all epochs."""
WINDOWED = frozenset([".tif", ".tiff", ".svs", ".ndpi", ".scn", ".npy"])
"""Endings of files that readers take by windows from any place."""


def may_have_parts(name: str) -> bool:
    """Whether a file of this name may be of a kind that is read by windows."""
    ending = ending_of(name)
    return ending in WINDOWED or ending not in EXTENSIONS


@lru_cache(maxsize=2**14)
def parts_of(url: str, access: Access, size: int | None, version: str) -> tuple[int, str] | None:
    """Size and version of a file to read by parts; None: it is small, or of another kind, or the store sends no parts,
    or none that tell whether they are of one version of the file.

    Args:
        url: of the file.
        access: time limits and cache.
        size: bytes, if known. Else it is asked for, once in a process, where the name is one of :data:`WINDOWED`.
        version: what changes when the file does, as far as known.

    Raises:
        FetchError: after several tries.
    """
    if not may_have_parts(last_part(url)) or (size is not None and size <= WHOLE):
        return None
    if is_fetched(url, access, version):
        return None
    known = size, version
    if size is None:
        if ending_of(last_part(url)) not in WINDOWED:
            return None
        known = details(url, access)
    if known[0] is None or known[0] <= WHOLE or not known[1]:
        return None
    if not sends_parts(url, access, BLOCK, known[0], known[1], version):
        return None
    return known[0], known[1]


def open_part(
    url: str,
    access: Access,
    known: tuple[int, str],
    on_error: Callable[[FetchError], None],
    within: tuple[int, int] | None = None,
) -> io.BufferedReader:
    """A file, or with ``within`` (position, length) a part of one, of which only what is read is fetched.

    Args:
        url: of the file.
        access: time limits and cache.
        known: its size and version.
        on_error: called with a FetchError, to raise another error.
        within: the part.
    """
    file = RemoteFile(url, access, known=known, within=within, stays=True, on_error=on_error)
    return io.BufferedReader(file, BUFFER)

"""A file behind a URL that can seek: what is read comes in blocks, through the cache."""

import io
from collections.abc import Callable
from functools import lru_cache, partial
from typing import BinaryIO

from fcmae.data.positioned import PositionedFile
from fcmae.data.stores.access import Access
from fcmae.data.stores.fetching import FetchError, details, kept_part

BLOCK = 2**20  # bytes
BUFFER = 2**16  # bytes, of a file whose blocks stay in memory
IN_MEMORY = 32
"""Blocks of images that a process keeps: the crops of a file share its directories, and neighbors their tiles."""


class RemoteFile(PositionedFile):
    """Read-only. For the indices of archives and tables, and for images read by windows.

    Args:
        url: of the file.
        access: time limits and cache.
        keeps: whether its blocks go into the cache.
        known: size and version of the file, where they need not be asked for.
        within: position and length of the part of the file that is read as if it were all of it.
        stays: the last blocks of all such files stay in the memory of the process.
        on_error: called when a read has failed, to raise another error.

    Raises:
        FetchError: at any read, after several tries.
    """

    def __init__(
        self,
        url: str,
        access: Access,
        keeps: bool = True,
        known: tuple[int, str] | None = None,
        within: tuple[int, int] | None = None,
        stays: bool = False,
        on_error: Callable[[FetchError], None] = lambda _error: None,
    ) -> None:
        whole, version = known or details(url, access)
        if whole is None:
            raise OSError("the store does not tell its size")
        self.start, size = within or (0, whole)
        super().__init__(size)
        self.url, self.access, self.whole, self.version = url, access, whole, version
        self.failed: Exception | None = None
        """What the last failed read raised, for those whose readers pass over errors."""
        self._on_error = on_error
        read = partial(_in_memory, url, access) if stays else partial(_block, url, access, keeps=keeps)
        self._read = partial(read, whole=whole, version=version)
        self._last: dict[int, bytes] = {}
        """Two blocks: a buffer on top reads across the end of one, and may come back."""

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        """At most up to the end of a block."""
        length = min(len(buffer), self.size - self.position)
        if length <= 0:
            return 0
        number, inside = divmod(self.start + self.position, BLOCK)
        data = self._block(number)[inside : inside + length]
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)

    def _block(self, number: int) -> bytes:
        if number not in self._last:
            try:
                data = self._read(number=number)
                self._last = dict([*self._last.items()][-1:]) | {number: data}
            except Exception as error:
                self.failed = error
                if isinstance(error, FetchError):
                    self._tell(error)
                raise
        return self._last[number]

    def _tell(self, error: FetchError) -> None:
        try:
            self._on_error(error)
        except Exception as worse:
            self.failed = worse
            raise


def _block(url: str, access: Access, *, number: int, whole: int, version: str, keeps: bool = True) -> bytes:
    start, end = number * BLOCK, min((number + 1) * BLOCK, whole)
    return kept_part(url, access, start, end, whole, version, keeps=keeps)


_in_memory = lru_cache(maxsize=IN_MEMORY)(_block)


def open_remote(url: str, access: Access, keeps: bool = True) -> io.BufferedReader:
    """A :class:`RemoteFile` with a buffer; raises as it does.

    Args:
        url: of the file.
        access: time limits and cache.
        keeps: whether its blocks go into the cache; not where the images in them do.
    """
    return io.BufferedReader(RemoteFile(url, access, keeps), BLOCK)


def failed_read(file: BinaryIO) -> Exception | None:
    """What the last failed read of a :class:`RemoteFile` raised; None: none has failed, or it is another file."""
    return getattr(getattr(file, "raw", None), "failed", None)

"""A file behind a URL that can seek: what is read comes in blocks, through the cache."""

import io

from fcmae.data.stores.access import Access
from fcmae.data.stores.fetching import details, kept_part

BLOCK = 2**20  # bytes


class RemoteFile(io.RawIOBase):
    """Read-only. For the indices of archives and tables, and for images read by windows.

    Raises:
        FetchError: at any read, after several tries.
    """

    def __init__(self, url: str, access: Access, keeps: bool = True) -> None:
        super().__init__()
        size, version = details(url, access)
        if size is None:
            raise OSError("the store does not tell its size")
        self.url, self.access, self.size, self.version = url, access, size, version
        self.keeps = keeps
        self._at = 0
        self._last: dict[int, bytes] = {}
        """Two blocks: a buffer on top reads across the end of one, and may come back."""

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The position in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As every file's."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        if start + offset < 0:
            raise ValueError(f"negative position {start + offset}")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        """At most up to the end of a block."""
        number, inside = divmod(self._at, BLOCK)
        if self._at >= self.size or not len(buffer):
            return 0
        data = self._block(number)[inside : inside + len(buffer)]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _block(self, number: int) -> bytes:
        if number not in self._last:
            start, end = number * BLOCK, min((number + 1) * BLOCK, self.size)
            data = kept_part(self.url, self.access, start, end, self.size, self.version, keeps=self.keeps)
            self._last = dict([*self._last.items()][-1:]) | {number: data}
        return self._last[number]


def open_remote(url: str, access: Access, keeps: bool = True) -> io.BufferedReader:
    """A :class:`RemoteFile` with a buffer; raises as it does.

    Args:
        url: of the file.
        access: time limits and cache.
        keeps: whether its blocks go into the cache; not where the images in them do.
    """
    return io.BufferedReader(RemoteFile(url, access, keeps), BLOCK)

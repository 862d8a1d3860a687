"""A file behind a URL that is read from its start to its end, with gaps: what is left out is not fetched."""

import io

from fcmae.data.stores.access import Access
from fcmae.data.stores.fetching import details, part

FEW, MOST = 2**14, 2**20
"""Bytes that are fetched beyond what is asked for: after a gap, and after a long way without one."""


class AheadFile(io.RawIOBase):
    """Read-only; nothing of it goes into the cache.

    Raises:
        FetchError: at any read, after several tries.
    """

    def __init__(self, url: str, access: Access) -> None:
        super().__init__()
        size, version = details(url, access)
        if size is None:
            raise OSError("the store does not tell its size")
        self.url, self.access, self.size, self.version = url, access, size, version
        self._at, self._start, self._held = 0, 0, b""
        self._ahead = FEW

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

    def read(self, size: int = -1) -> bytes:
        """As many bytes as are asked for; fewer at the end of the file only."""
        end = self.size if size < 0 else min(self._at + size, self.size)
        if end <= self._at:
            return b""
        if not self._start <= self._at <= end <= self._start + len(self._held):
            self._fetch(end)
        data = self._held[self._at - self._start : end - self._start]
        self._at = end
        return data

    def _fetch(self, end: int) -> None:
        """Hold the bytes from the position to ``end``, and some that follow."""
        fetched_to = self._start + len(self._held)
        goes_on = self._start <= self._at <= fetched_to
        kept = self._held[self._at - self._start :] if goes_on else b""
        self._ahead = min(2 * self._ahead, MOST) if goes_on or self._at - fetched_to < self._ahead else FEW
        start, until = self._at + len(kept), min(end + self._ahead, self.size)
        self._start, self._held = self._at, kept + part(self.url, self.access, start, until, self.size)

"""A file behind a URL that is read from its start to its end, with gaps: what is left out is not fetched."""

from fcmae.data.positioned import PositionedFile
from fcmae.data.stores.access import Access
from fcmae.data.stores.fetching import details, part

FEW, MOST = 2**14, 2**20
"""Bytes that are fetched beyond what is asked for: after a gap, and after a long way without one."""


class AheadFile(PositionedFile):
    """Read-only; nothing of it goes into the cache.

    Raises:
        FetchError: at any read, after several tries.
    """

    def __init__(self, url: str, access: Access) -> None:
        size, version = details(url, access)
        if size is None:
            raise OSError("the store does not tell its size")
        super().__init__(size)
        self.url, self.access, self.version = url, access, version
        self._start, self._held = 0, b""
        self._ahead = FEW

    def read(self, size: int = -1) -> bytes:
        """As many bytes as are asked for; fewer at the end of the file only."""
        end = self.size if size < 0 else min(self.position + size, self.size)
        if end <= self.position:
            return b""
        if not self._start <= self.position <= end <= self._start + len(self._held):
            self._fetch(end)
        data = self._held[self.position - self._start : end - self._start]
        self.position = end
        return data

    def _fetch(self, end: int) -> None:
        """Hold the bytes from the position to ``end``, and some that follow."""
        fetched_to = self._start + len(self._held)
        goes_on = self._start <= self.position <= fetched_to
        kept = self._held[self.position - self._start :] if goes_on else b""
        self._ahead = min(2 * self._ahead, MOST) if goes_on or self.position - fetched_to < self._ahead else FEW
        start, until = self.position + len(kept), min(end + self._ahead, self.size)
        self._start, self._held = self.position, kept + part(self.url, self.access, start, until, self.size)

"""A file that is read by position: what all such files of ours share."""

import errno
import io
import os


class PositionedFile(io.RawIOBase):
    """Read-only. A subclass reads at ``self.position``, and moves it on.

    Args:
        size: bytes.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.position = size, 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The position in bytes."""
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As the system's files: OSError for a position before the start, which zipfile expects of a short file."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence]
        if start + offset < 0:
            raise OSError(errno.EINVAL, f"position {start + offset}, before the start")
        self.position = start + offset
        return self.position

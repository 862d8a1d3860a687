"""A member of an archive: its bytes, read by position and never unpacked to disk."""

import errno
import io
import os
import struct
import threading
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from fcmae.data.positioned import PositionedFile
from fcmae.data.stored import Region, Stored
from fcmae.data.stores.access import Access
from fcmae.data.stores.fetching import FetchError, check_alive, kept_part
from fcmae.data.stores.parts import WHOLE, may_have_parts, open_part
from fcmae.data.stores.urls import shown

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

STORED, DEFLATED = 0, 8
"""How a member is compressed, by the numbers of zip."""
IN_TAR = 255
"""A member of a tar: its offset is that of its bytes, not of a header."""
LOCAL_HEADER = struct.Struct("<4s2xHH4xIIIHH")
"""Signature, flags, method, checksum, compressed size, size, length of the name, length of the extra field."""
SMALL = 2**22  # bytes; up to here one read of all is faster than several of parts
MOST = 2**31
"""Bytes that a member may inflate to."""
OPEN_FILES = 64


class Found(NamedTuple):
    """A regular file in an archive, as a listing finds it."""

    name: str
    offset: int
    """Of its bytes in a tar, of its local header in a zip."""
    stored: int
    """Bytes in the archive."""
    size: int
    """Bytes of the file."""
    method: int
    crc: int = 0


@dataclass(frozen=True)
class Member(Stored):
    """An image in an archive."""

    archive: str
    found: Found
    stamp: tuple[int, int]
    """Of the archive when it was listed: size in bytes, time of change in nanoseconds."""
    access: Access | None = None
    """How an archive behind a URL is fetched; None: it is a local file."""
    others: tuple[str, ...] = ()
    """Some archives of the set, to ask whether the store is there when this one cannot be fetched."""

    def __str__(self) -> str:
        return f"{shown(self.archive) if self.access else self.archive}/{self.found.name}"

    @property
    def name(self) -> str:
        """The last part of its name."""
        return self.found.name.rpartition("/")[2]

    def region(self) -> Region | None:
        """None if it is compressed, or not on this machine."""
        if self.found.method == DEFLATED or self.access is not None:
            return None
        return Region(self.archive, self._offset(), self.found.size)

    def has_parts(self) -> bool:
        """Of a large one behind a URL that is not compressed, of a kind that is read by windows."""
        is_large = self.access is not None and self.found.size > WHOLE
        return is_large and self.found.method != DEFLATED and may_have_parts(self.name)

    def open(self, _mode: str = "rb") -> BinaryIO:
        """A file that can seek; of a large one only what is asked for is read."""
        if self.access is not None and self.has_parts():
            size, version = self.stamp
            within = self._offset(), self.found.size
            return open_part(self.archive, self.access, (size, str(version)), self._check_alive, within)
        if self.found.method == DEFLATED or self.found.size <= SMALL or self.access is not None:
            return io.BytesIO(self.read_bytes())
        return io.BufferedReader(_Part(self, self._offset()))

    def read_bytes(self) -> bytes:
        """All of it, inflated.

        Raises:
            OSError: the archive is gone or has changed, or the member is damaged.
            StoreError: the archive is behind a URL, and nothing of the set can be fetched any more.
        """
        data = self.read_at(self._offset(), self.found.stored)
        if self.found.method == DEFLATED:
            data = self._inflated(data, self.found.size + 1)
        if len(data) != self.found.size:
            raise OSError(f"damaged: {len(data)} bytes, its archive says {self.found.size}")
        if self.found.method != IN_TAR and zlib.crc32(data) != self.found.crc:
            raise OSError("damaged: its checksum in the archive differs")
        return data

    def head(self, length: int) -> bytes:
        """The first bytes."""
        data = self.read_at(self._offset(), min(self.found.stored, length if self.found.method != DEFLATED else 1024))
        return self._inflated(data, length) if self.found.method == DEFLATED else data

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes of the archive; fewer at its end."""
        if self.access is not None:
            size, version = self.stamp
            end = min(offset + length, size)
            try:
                return kept_part(self.archive, self.access, offset, end, size, str(version)) if end > offset else b""
            except FetchError as error:
                self._check_alive(error)
                raise
        file = _opened(self.archive, self.stamp)
        parts: list[bytes] = []
        while length > 0 and (part := _read(file, offset, length)):  # at most 2 GiB at once
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _check_alive(self, error: FetchError) -> None:
        if self.access is not None:
            check_alive([self.archive, *self.others], error, self.access)

    def _offset(self) -> int:
        if self.found.method == IN_TAR:
            return self.found.offset
        header = self.read_at(self.found.offset, LOCAL_HEADER.size)
        if len(header) < LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
            raise OSError("damaged: there is no header where its archive says")
        *_, name, extra = LOCAL_HEADER.unpack(header)
        return self.found.offset + LOCAL_HEADER.size + name + extra

    def _inflated(self, data: bytes, length: int) -> bytes:
        """At most ``length`` bytes."""
        if length > MOST:
            raise OSError(f"{length} bytes when inflated; the limit is {MOST}")
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, length)
        except zlib.error as error:
            raise OSError(f"damaged: {error}") from None


def _read(file: io.FileIO, offset: int, length: int) -> bytes:
    if hasattr(os, "pread"):  # a forked process shares the position in the file
        return os.pread(file.fileno(), length, offset)
    file.seek(offset)
    return file.read(length)


def _opened(archive: str, stamp: tuple[int, int]) -> io.FileIO:
    """The archive; each thread keeps the last few open.

    Raises:
        OSError: it is gone, or is not what was listed.
    """
    kept: OrderedDict[tuple[str, tuple[int, int]], io.FileIO] = _files.__dict__.setdefault("kept", OrderedDict())
    key = archive, stamp
    if key not in kept:
        file = io.FileIO(archive)
        status = os.fstat(file.fileno())
        if (status.st_size, status.st_mtime_ns) != stamp:
            file.close()
            raise OSError(errno.ESTALE, f"{archive} has changed since its members were listed")
        kept[key] = file
    kept.move_to_end(key)
    while len(kept) > OPEN_FILES:
        kept.popitem(last=False)[1].close()
    return kept[key]


_files = threading.local()


class _Part(PositionedFile):
    """A member as a file."""

    def __init__(self, member: Member, offset: int) -> None:
        super().__init__(member.found.size)
        self._member, self._offset = member, offset

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        length = max(0, min(len(view), self.size - self.position))
        data = self._member.read_at(self._offset + self.position, length)
        view[: len(data)] = data
        self.position += len(data)
        return len(data)

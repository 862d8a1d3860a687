"""Writes samples into tars, one after the other; each is complete and checked, or not there."""

import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

from fcmae.data.unreadable import Unreadable
from fcmae.errors import UserError
from fcmae.files import replacing
from fcmae.packing.encoding import Packed
from fcmae.packing.journal import Shard

BLOCK = tarfile.BLOCKSIZE
LONGEST_NAME = 100  # bytes in a plain header
Members = list[tuple[str, bytes]]
"""Name and contents of each file of a sample."""


class Samples:
    """Samples in the order of the source, with one to look at in advance; damaged images are set aside."""

    def __init__(
        self, found: Iterator[Packed | Unreadable], first: int, members_of: Callable[[int, Packed], Members]
    ) -> None:
        self.found, self.members_of = found, members_of
        self.damaged: list[list[str]] = []
        self.end = first
        """Images of the source that were written or set aside."""
        self._waiting: Members | None = None

    def next(self) -> Members | None:
        """The next sample, until :meth:`take` is called; None: there are no more."""
        while self._waiting is None:
            one = next(self.found, None)
            if one is None:
                return None
            if isinstance(one, Unreadable):
                self.damaged.append([one.name, one.message])
                self.end += 1
            else:
                self._waiting = self.members_of(self.end, one)
        return self._waiting

    def take(self) -> None:
        """The sample is written."""
        self._waiting = None
        self.end += 1


def write_shard(file: Path, samples: Samples, limit: int) -> Shard | None:
    """Write samples until the next one would make the tar longer than ``limit`` bytes; at least one.

    The file has its name once all of its members have been read back. Equal samples make equal bytes.

    Returns:
        The shard, with the images that were set aside meanwhile; None if there are no more samples.

    Raises:
        OSError: it cannot be written.
        UserError: what was read back is not what was written.
    """
    first = samples.next()
    if first is None and not samples.damaged:
        return None
    if first is None:  # damaged images at the end
        return Shard("", 0, 0, samples.end, _taken(samples))
    written: list[tuple[str, str]] = []
    images = 0
    with replacing(file) as temporary:
        with tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape") as tar:
            while (members := samples.next()) is not None:
                if images and _padded(tar.offset + sum(_size(*member) for member in members)) > limit:
                    break
                for name, data in members:
                    tar.addfile(_header(name, len(data)), io.BytesIO(data))
                    written.append((name, _digest(data)))
                images += 1
                samples.take()
        check(temporary, written)
        size = temporary.stat().st_size
    return Shard(file.name, images, size, samples.end, _taken(samples))


def _taken(samples: Samples) -> list[list[str]]:
    taken, samples.damaged = samples.damaged, []
    return taken


def _header(name: str, length: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)  # time 0, no owner: the same bytes each time
    header.size, header.mode = length, 0o644
    return header


def _padded(length: int) -> int:
    """Of the whole tar, with the two blocks that end it."""
    return tarfile.RECORDSIZE * -(-(length + 2 * BLOCK) // tarfile.RECORDSIZE)


def _size(name: str, data: bytes) -> int:
    """Bytes that a member takes."""
    encoded = len(os.fsencode(name))
    headers = 1 if encoded <= LONGEST_NAME else 2 + encoded // BLOCK + 1
    return BLOCK * (headers + -(-len(data) // BLOCK))


def check(file: Path, written: list[tuple[str, str]]) -> None:
    """UserError unless the tar holds these members, name and digest, in this order."""
    with tarfile.open(file, "r:", encoding="utf-8", errors="surrogateescape") as tar:
        found = [(member.name, _digest(_read(tar, member))) for member in tar]
    if found != written:
        raise UserError(f"{file.name} does not hold what was written to it; is the disk damaged? Run the command again")


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    opened = tar.extractfile(member)
    return b"" if opened is None else opened.read()


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()

"""A cache of bytes on the local disk, of bounded size, that several processes share: the least recently used go first.

An entry is written under a temporary name and renamed, and ends with a checksum, so that a process may be killed at any
moment and a damaged entry is only a missing one. The total lies in a file and is raised, under a lock, before an entry
is written: what is there never exceeds it. A total that is too high is mended by the next clearing, which counts.
"""

import contextlib
import logging
import os
import re
import tempfile
import threading
import time
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from filelock import FileLock

from fcmae.errors import UserError

logger = logging.getLogger("fcmae")

DIGEST = 16  # bytes at the end of an entry
KEPT = 0.9  # of the limit, after a clearing
ABANDONED = 3600.0  # seconds, after which a temporary file has no writer any more
BETWEEN_TRIES = 0.002  # seconds, of a process that waits for the lock
TOTAL, LOCK, TEMPORARY = "total", "total.lock", ".new-"
FOLDER, ENTRY = re.compile("[0-9a-f]{2}"), re.compile("[0-9a-f]{30}")
"""Names of what the cache has made; nothing else in its folder is counted or deleted."""

_given_up: set[str] = set()  # folders that could not be written to; a line was logged


@dataclass(frozen=True)
class Cache:
    """Bytes by key, in a folder."""

    folder: Path
    limit: int
    """Bytes; 0: nothing is kept."""

    def check(self) -> None:
        """UserError unless the folder can be written to."""
        if self.limit:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=self.folder):
                    pass
            except OSError as error:
                raise UserError(
                    f"--data.cache_dir {self.folder} cannot be written to: {error.strerror}; give another, or "
                    f"--data.cache_size 0 for none"
                ) from None

    def get(self, key: str) -> bytes | None:
        """What was put under this key, if it is there and whole."""
        if not self.limit:
            return None
        file = self._file(key)
        try:
            stored = file.read_bytes()
        except OSError:
            return None
        data = stored[:-DIGEST]
        if stored[-DIGEST:] != _checksum(key, data):
            with contextlib.suppress(OSError):
                file.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(file)  # its last use
        return data

    def has(self, key: str) -> bool:
        """Whether there is an entry, whole or damaged."""
        return self.limit > 0 and self._file(key).is_file()

    def put(self, key: str, data: bytes) -> None:
        """Keep it, if there is room or room can be made. A disk that fails or is full costs speed only."""
        size = len(data) + DIGEST
        if size > self.limit * KEPT or str(self.folder) in _given_up:
            return
        file = self._file(key)
        temporary = file.with_name(f"{TEMPORARY}{os.getpid()}-{threading.get_ident()}-{file.name}")
        try:
            if file.exists():
                return
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                if self._make_room(size, temporary):
                    with temporary.open("r+b") as opened:
                        opened.write(data + _checksum(key, data))
                    os.replace(temporary, file)
            finally:
                temporary.unlink(missing_ok=True)
        except FileNotFoundError:  # somebody empties the cache at this moment
            pass
        except OSError as error:
            _given_up.add(str(self.folder))
            logger.warning("--data.cache_dir %s: no more is kept in it: %s", self.folder, error.strerror)

    def _file(self, key: str) -> Path:
        name = blake2b(os.fsencode(key), digest_size=16).hexdigest()
        return self.folder / name[:2] / name[2:]

    def _make_room(self, size: int, temporary: Path) -> bool:
        """Delete what is too much, and take the room with an empty file of this size; False: there is none."""
        with FileLock(self.folder / LOCK, poll_interval=BETWEEN_TRIES):
            total = self._read_total()
            if total is None or total + size > self.limit:
                total = self._clear(int(self.limit * KEPT) - size)
            if total + size > self.limit:  # other processes write at this moment
                return False
            (self.folder / TOTAL).write_text(str(total + size))
            with temporary.open("wb") as opened:
                opened.truncate(size)
        return True

    def _read_total(self) -> int | None:
        try:
            return int((self.folder / TOTAL).read_text())
        except (OSError, ValueError):  # new, or damaged
            return None

    def _clear(self, allowed: int) -> int:
        """Delete the entries used longest ago until the rest has ``allowed`` bytes; its size."""
        found, total, now = [], 0, time.time()
        for folder in self.folder.iterdir():
            if not FOLDER.fullmatch(folder.name) or not folder.is_dir():
                continue
            for one in os.scandir(folder):
                is_temporary = one.name.startswith(TEMPORARY)
                if not is_temporary and not ENTRY.fullmatch(one.name):
                    continue
                with contextlib.suppress(OSError):  # another process replaced it
                    status = one.stat()
                    total += status.st_size
                    is_abandoned = is_temporary and now - status.st_mtime > ABANDONED
                    if is_abandoned or not is_temporary:  # what is being written stays
                        found.append((0.0 if is_abandoned else status.st_mtime, status.st_size, one.path))
        for used, size, path in sorted(found):
            if total <= allowed and used:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
                total -= size
        return total


def _checksum(key: str, data: bytes) -> bytes:
    return blake2b(data, digest_size=DIGEST, key=blake2b(os.fsencode(key), digest_size=DIGEST).digest()).digest()

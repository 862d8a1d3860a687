"""Files that are complete or not there: written under a temporary name, synced to disk, renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A temporary path to write to, which becomes ``file`` when the block ends without an error.

    A reader sees the old file or the new one, never a part. After an error the old one stays. The folder is made if
    needed.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".new-{file.name}")
    try:
        temporary.unlink(missing_ok=True)  # left by a process that died, or a link to a file of someone else
        yield temporary
        sync(temporary)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    """Replace a file's contents, UTF-8, in one go."""
    with replacing(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sync(path: Path) -> None:
    """Make sure that a file, or a folder's list of names, is on disk; folders can be synced on POSIX only."""
    if path.is_dir() and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

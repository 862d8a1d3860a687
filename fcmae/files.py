"""Files that are complete or not there: written under a temporary name, synced to disk, renamed."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fcmae.errors import UserError

NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP)  # what file systems answer that cannot sync a folder


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A temporary path to write to, which becomes ``file`` when the block ends without an error.

    A reader sees the old file or the new one, never a part. After an error the old one stays. When the block has ended,
    the new one is on disk. The folder is made if needed. Who may read the file is up to the umask, also where a library
    writes private ones (safetensors: 0600).

    Raises:
        OSError: with the name of the file in it.
    """
    make_folder(file.parent)
    temporary = _temporary(file)
    try:
        with naming(file):
            temporary.unlink(missing_ok=True)  # left by a process that died, perhaps with another mode
            temporary.touch()
            mode = temporary.stat().st_mode
            yield temporary
            temporary.chmod(stat.S_IMODE(mode))
            sync(temporary)
            os.replace(temporary, file)
            sync(file.parent)
    finally:
        temporary.unlink(missing_ok=True)


def try_writing(file: Path) -> None:
    """As :func:`replacing` begins: the folder is made, and a temporary file, which is removed.

    Raises:
        OSError: the file could not be written.
    """
    make_folder(file.parent)
    _temporary(file).touch()
    _temporary(file).unlink()


def check_writable(file: Path, flag: str) -> None:
    """UserError if the file cannot be written, before work that may take hours. Its folder is made."""
    try:
        try_writing(file)
    except OSError as error:
        above = next(folder for folder in file.absolute().parents if folder.exists())
        why = error.strerror if above.is_dir() else f"{above} is not a folder"
        raise UserError(f"{flag} {file} cannot be written: {why}") from None


def _temporary(file: Path) -> Path:
    return file.with_name(f".new-{file.name}")


def write_text(file: Path, text: str) -> None:
    """Replace a file's contents, UTF-8, in one go."""
    with replacing(file) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")  # names may be any bytes


def make_folder(folder: Path) -> None:
    """Make a folder, and the folders above it that are missing; when this returns, their names are on disk."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in missing:
        sync(one.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the operating system get the path's name: a write to an open file raises one without."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def sync(path: Path) -> None:
    """Make sure that a file, or a folder's list of names, is on disk; folders can be synced on POSIX only."""
    is_folder = path.is_dir()
    if is_folder and os.name != "posix":
        return
    with naming(path):
        descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if not is_folder or error.errno not in NO_FOLDER_SYNC:
                raise
        finally:
            os.close(descriptor)


def identity(path: str | Path) -> object:
    """Equal for all names of a file, such as links; of one that is not there its absolute path."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # not there, or no path
        return os.path.abspath(path)
    return found.st_dev, found.st_ino

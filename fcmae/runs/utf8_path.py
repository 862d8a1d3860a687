"""Names for libraries that take only UTF-8 (TensorBoard, safetensors, Matplotlib); file systems take any bytes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def utf8_path(path: str | os.PathLike[str]) -> Iterator[str]:
    """The path as UTF-8 text: its own, or while the block is open that of a symbolic link to it."""
    text = os.fspath(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        with TemporaryDirectory(prefix="fcmae-") as folder:
            link = Path(folder) / f"link{Path(path).suffix}"
            link.symlink_to(os.path.abspath(path), target_is_directory=os.path.isdir(path))
            yield str(link)
    else:
        yield text


def readable(name: str) -> str:
    """A name to draw or print: bytes that are not UTF-8 as the replacement character."""
    return name.encode("utf-8", errors="surrogateescape").decode("utf-8", errors="replace")

"""An image that is not a file of its own: a member of an archive, a row of a table, the target of a URL."""

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias


class Region(NamedTuple):
    """Bytes of a local file that are an image file as they are."""

    path: str
    offset: int
    size: int


class Stored(ABC):
    """Where one image's bytes are. Small, picklable and hashable; opens nothing before it is read.

    Readers take it where they take a ``Path``, and use what is here: ``open``, ``read_bytes``, ``name`` and ``str()``,
    which is what messages call it.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """The last part of its name, as ``Path.name``."""

    @abstractmethod
    def read_bytes(self) -> bytes:
        """All of it.

        Raises:
            OSError: it cannot be read. With ``errno`` the storage has failed and it is tried again when its turn comes;
                without, the image is damaged, and counted once.
        """

    def open(self, _mode: str = "rb") -> BinaryIO:
        """A file that can seek."""
        return io.BytesIO(self.read_bytes())

    def fingerprint(self) -> bytes | None:
        """What tells a resumed run that the contents are others, where reading some of them would take long.

        None: read them.
        """
        return None

    def region(self) -> Region | None:
        """Where it lies in a local file, byte by byte, so that large TIFFs and arrays are read by windows; or None."""
        return None

    def has_parts(self) -> bool:
        """Whether it is large and elsewhere, and :meth:`open` fetches only what is read of it, window by window.

        Raises:
            OSError: as :meth:`read_bytes`.
        """
        return False


ImageRef: TypeAlias = Path | Stored
"""An item of an image set."""


@dataclass(frozen=True)
class Held(Stored):
    """An image and its bytes, so that they are fetched or inflated once."""

    image: Stored
    data: bytes

    def __str__(self) -> str:
        return str(self.image)

    @property
    def name(self) -> str:
        """As the image's."""
        return self.image.name

    def read_bytes(self) -> bytes:
        """What is held."""
        return self.data


def region_of(image: ImageRef) -> Region | None:
    """The image's place in a local file; of a path, all of the file."""
    return image.region() if isinstance(image, Stored) else Region(str(image), 0, os.stat(image).st_size)


def identity_of(image: ImageRef) -> Hashable:
    """Equal as long as the bytes are the same."""
    region = region_of(image)
    if region is None:
        return image
    status = os.stat(region.path)
    return *region, status.st_size, status.st_mtime_ns, status.st_ino

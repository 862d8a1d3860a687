"""Images by URL as an image set: each is fetched when it is read."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fcmae.data.endings import EXTENSIONS, ending_of
from fcmae.data.sources.image_set import ImageSet, Stamp
from fcmae.data.sources.same import number_of
from fcmae.data.stored import ImageRef, Stored
from fcmae.data.stores.access import Access
from fcmae.data.stores.fetching import FetchError, check_alive, details, fetched, some_of
from fcmae.data.stores.listing import Listed
from fcmae.data.stores.parts import open_part, parts_of
from fcmae.data.stores.urls import WEB, is_url, last_part, protocol, shown

UNKNOWN = -1  # size


@dataclass(frozen=True)
class UrlImage(Stored):
    """An image file behind a URL."""

    url: str
    size: int | None
    """Bytes, if known."""
    version: str
    others: tuple[str, ...]
    """Some files of the set, to ask whether the store is there when this one cannot be fetched."""
    access: Access

    def __str__(self) -> str:
        return label(self.url)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return last_part(self.url)

    def read_bytes(self) -> bytes:
        """The file, from the cache if it is there.

        Raises:
            FetchError: it cannot be fetched, but the store is there.
            StoreError: nothing of the set can be fetched.
        """
        try:
            return fetched(self.url, self.access, self.version, self.size)
        except FetchError as error:
            self._check_alive(error)
            raise

    def open(self, _mode: str = "rb") -> BinaryIO:
        """A file that can seek, of a large image one that fetches what is read; raises as :meth:`read_bytes`."""
        if (known := self._parts()) is None:
            return BytesIO(self.read_bytes())
        return open_part(self.url, self.access, known, self._check_alive)

    def has_parts(self) -> bool:
        """Of a large image of a kind that is read by windows, where the store sends parts of files."""
        return self._parts() is not None

    def _parts(self) -> tuple[int, str] | None:
        try:
            return parts_of(self.url, self.access, self.size, self.version)
        except FetchError as error:
            self._check_alive(error)
            raise

    def _check_alive(self, error: FetchError) -> None:
        if not error.is_absent:
            check_alive(self.others, error, self.access)

    def fingerprint(self) -> bytes:
        """The store's own digest of the contents; of web servers, whose marks may differ by machine, the size."""
        size, version = self.size, self.version
        try:
            if size is None:
                size, version = details(self.url, self.access)
        except FetchError as error:
            self._check_alive(error)
            return b""
        return f"{size} {'' if protocol(self.url) in WEB else version}".encode()


def label(url: str) -> str:
    """A URL's name: without its query, which may be a signature, unless that is what tells files apart."""
    ending = ending_of(last_part(url))
    if protocol(url) not in WEB or ending in EXTENSIONS or "?" not in url:
        return shown(url)
    return f"{shown(url)}?{url.partition('?')[2]}"


class Texts(Sequence[str]):
    """Many texts in one block of memory, which forked processes share."""

    def __init__(self, texts: Iterable[str]) -> None:
        encoded = [os.fsencode(text) for text in texts]
        self._ends = np.cumsum([len(one) for one in encoded], dtype=np.int64)
        self._whole = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        start = int(self._ends[index - 1]) if index else 0
        return os.fsdecode(self._whole[start : int(self._ends[index])])


class UrlImages(ImageSet):
    """Files of stores, in the order given; among them may be local paths."""

    def __init__(self, files: Sequence[Listed], access: Access) -> None:
        self._urls, self._names = Texts(one.url for one in files), Texts(one.name for one in files)
        self._versions = Texts(one.version for one in files)
        self._sizes = np.array([UNKNOWN if one.size is None else one.size for one in files], dtype=np.int64)
        given = [one.given for one in files if one.given is not None]
        self._given = Texts(given) if len(given) == len(files) else None
        self._others, self.access = some_of(self._urls), access

    def __len__(self) -> int:
        return len(self._urls)

    @property
    def is_far(self) -> bool:
        """Unless all of them are local paths."""
        return any(map(is_url, self._urls))

    def item(self, index: int) -> ImageRef:
        """The image at an index."""
        url, size = self._urls[index], int(self._sizes[index])
        if not is_url(url):
            return Path(url)
        return UrlImage(url, None if size == UNKNOWN else size, self._versions[index], self._others, self.access)

    def name(self, index: int) -> str:
        """Relative to the folder or pattern; of a list, the URL without its query."""
        return self._names[index]

    def given(self, index: int) -> str | None:
        """As in the list that names it."""
        return None if self._given is None else self._given[index]

    def identities(self) -> np.ndarray:
        """Of URLs the text tells them apart."""
        return np.fromiter(map(number_of, self._urls), np.uint64, len(self))

    @property
    def may_have_links(self) -> bool:
        """URLs have none that could be told."""
        return not self.is_far

    def stamp(self, index: int) -> Stamp:
        """The size, where the store's listing has it."""
        return max(0, int(self._sizes[index])), 0

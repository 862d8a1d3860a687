"""The last few large TIFFs stay open in each process: parsing thousands of tiles costs as much as decoding a crop."""

import os
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import tifffile

from fcmae.data.stored import ImageRef, identity_of
from fcmae.data.stores.remote_file import failed_read

KEPT = 8
LARGE = 2**24
"""Pixels from which a file is kept."""


@dataclass
class Kept:
    """An open file, and what was found out about it."""

    tiff: tifffile.TiffFile
    source: BinaryIO | None
    """What it is read from, if that is no local file."""
    facts: dict[Hashable, Any] = field(default_factory=dict)


def parsed(path: ImageRef) -> Kept:
    """The file, or the part of one, opened and its first directory read."""
    if isinstance(path, Path):
        return Kept(tifffile.TiffFile(path), None)
    region = path.region()
    if region is not None:
        return Kept(tifffile.TiffFile(region.path, offset=region.offset, size=region.size), None)
    source = path.open()
    with all_read(source):
        return Kept(tifffile.TiffFile(source, name=path.name), source)


_kept: OrderedDict[tuple[Hashable, ...], Kept] = OrderedDict()


def _key(path: ImageRef) -> tuple[Hashable, ...]:
    # a forked process shares the position in files that its parent opened, so it opens them again
    return os.getpid(), identity_of(path)


def is_open(path: ImageRef) -> bool:
    """Whether the file is open and parsed already."""
    return _key(path) in _kept


@contextmanager
def open_file(path: ImageRef) -> Iterator[Kept]:
    """The file, parsed; closed afterwards unless it is large."""
    key = _key(path)
    found = _kept.pop(key, None)
    keep = found is not None
    found = found or parsed(path)
    try:
        with all_read(found.source):
            yield found
            page = found.tiff.pages.first
            keep = keep or page.imagelength * page.imagewidth > LARGE
    finally:
        if keep and (found.source is None or failed_read(found.source) is None):
            _kept[key] = found
            while len(_kept) > KEPT:
                _kept.popitem(last=False)[1].tiff.close()
        else:
            found.tiff.close()


@contextmanager
def all_read(source: BinaryIO | None) -> Iterator[None]:
    """tifffile passes over errors of reading, and goes on with what it has: here they are raised, and before others."""
    try:
        yield
    except Exception as error:
        failed = None if source is None else failed_read(source)
        if failed is not None and failed is not error:
            raise failed from None
        raise
    if source is not None and (failed := failed_read(source)) is not None:
        raise failed

"""The last few large TIFFs stay open in each process: parsing thousands of tiles costs as much as decoding a crop."""

import os
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tifffile

from fcmae.data.stored import ImageRef, identity_of

KEPT = 8
LARGE = 2**24
"""Pixels from which a file is kept."""


@dataclass
class Kept:
    """An open file, and what was found out about it."""

    tiff: tifffile.TiffFile
    facts: dict[Hashable, Any] = field(default_factory=dict)


def parsed(path: ImageRef) -> tifffile.TiffFile:
    """The file, or the part of one, opened and its first directory read."""
    if isinstance(path, Path):
        return tifffile.TiffFile(path)
    region = path.region()
    if region is None:
        return tifffile.TiffFile(path.open(), name=path.name)
    return tifffile.TiffFile(region.path, offset=region.offset, size=region.size)


_kept: OrderedDict[tuple[Hashable, ...], Kept] = OrderedDict()


@contextmanager
def open_file(path: ImageRef) -> Iterator[Kept]:
    """The file, parsed; closed afterwards unless it is large."""
    # a forked process shares the position in files that its parent opened, so it opens them again
    key = os.getpid(), identity_of(path)
    if key in _kept:
        _kept.move_to_end(key)
        yield _kept[key]
        return
    found = Kept(parsed(path))
    try:
        yield found
        page = found.tiff.pages.first
        keep = page.imagelength * page.imagewidth > LARGE
    except BaseException:
        found.tiff.close()
        raise
    if not keep:
        found.tiff.close()
        return
    _kept[key] = found
    while len(_kept) > KEPT:
        _kept.popitem(last=False)[1].tiff.close()

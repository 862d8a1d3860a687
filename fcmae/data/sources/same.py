"""Tells that images are the same under several names: links, or a file, URL, archive or table that is given twice."""

import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from fcmae.data.stores.urls import is_url
from fcmae.data.zarr_folders import metadata_of

T = TypeVar("T")

SPREAD = np.uint64(0x9E3779B97F4A7C15)
"""An odd number that spreads places over 64 bits."""


def number(what: object) -> int:
    """A hash of 64 bits, the same in all processes, of texts, integers and tuples of these."""
    return int.from_bytes(hashlib.blake2b(repr(what).encode(), digest_size=8).digest())


def number_of(holder: str | Path) -> int:
    """Of a file or URL: equal for all names of a file, as :attr:`fcmae.data.sources.entries.Entry.identity` is; of an
    OME-Zarr folder that of its metadata; of a file that is not there a hash of its absolute path."""
    text = os.fspath(holder)
    if is_url(text):
        return number(text)
    try:
        found = os.stat(text)
        if stat.S_ISDIR(found.st_mode):
            found = os.stat(metadata_of(text) or text)
    except (OSError, ValueError):  # not there, or no path
        return number(os.path.abspath(text))
    return number((found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns))


def keys(holders: np.ndarray, places: np.ndarray) -> np.ndarray:
    """uint64 [N]: one number for an image, of that of its holder, uint64 [N], and of its place in there, int64 [N].

    Of ten million images two others have the same with a probability of 3e-6.
    """
    return holders ^ (places.astype(np.uint64) * SPREAD)


def first_of_each(holders: Sequence[T], where: Callable[[T], str]) -> list[T]:
    """The first of all names of each archive or table, in their order; ``where`` gives its path or URL."""
    found: dict[int, T] = {}
    for one in holders:
        found.setdefault(number_of(where(one)), one)
    return list(found.values())


def places_once(identities: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Of sets one after the other, the indices of those images in each that no set before it has.

    Args:
        identities: of each set, as :meth:`fcmae.data.sources.image_set.ImageSet.identities`.
    """
    ends = np.cumsum([len(one) for one in identities])
    whole = np.concatenate(identities)
    is_first = np.zeros(len(whole), bool)
    is_first[np.unique(whole, return_index=True)[1]] = True
    return [np.flatnonzero(part) for part in np.split(is_first, ends[:-1])]

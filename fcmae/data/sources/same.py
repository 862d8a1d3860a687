"""Tells that images are the same under several names: links, or a file, URL, archive or table that is given twice."""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from fcmae.data.stores.urls import is_url

T = TypeVar("T")


def number(what: object) -> int:
    """A hash of 64 bits, the same in all processes, of texts, integers and tuples of these."""
    return int.from_bytes(hashlib.blake2b(repr(what).encode(), digest_size=8).digest())


def number_of(holder: str | Path) -> int:
    """Of a file or URL: equal for all names of a file, as :attr:`fcmae.data.sources.entries.Entry.identity` is; of a
    file that is not there a hash of its absolute path."""
    text = os.fspath(holder)
    if is_url(text):
        return number(text)
    try:
        found = os.stat(text)
    except (OSError, ValueError):  # not there, or no path
        return number(os.path.abspath(text))
    return number((found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns))


def alone(holders: Iterable[int]) -> np.ndarray:
    """Identities of images that are files or targets of URLs, uint64 [N, 2], from the numbers of these."""
    numbers = np.fromiter(holders, np.uint64)
    return np.stack([numbers, np.zeros_like(numbers)], axis=1)


def first_of_each(holders: Sequence[T], where: Callable[[T], str]) -> list[T]:
    """The first of all names of each archive or table; ``where`` gives its path or URL."""
    return list({number_of(where(one)): one for one in reversed(holders)}.values())[::-1]


def places_once(identities: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Of sets one after the other, the indices of those images in each that no set before it has.

    Args:
        identities: of each set, as :meth:`fcmae.data.sources.image_set.ImageSet.identities`.
    """
    holders, sets = np.unique(np.concatenate([np.unique(of_set[:, 0]) for of_set in identities]), return_counts=True)
    shared = holders[sets > 1]  # mostly none: then no image has to be looked at
    seen: set[tuple[int, ...]] = set()
    kept = []
    for of_set in identities:
        is_kept = np.ones(len(of_set), bool)
        places = np.flatnonzero(np.isin(of_set[:, 0], shared))
        keys = list(map(tuple, of_set[places].tolist()))
        is_kept[places] = [key not in seen for key in keys]
        seen.update(keys)
        kept.append(np.flatnonzero(is_kept))
    return kept

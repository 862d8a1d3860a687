"""Finds images that are there twice: equal bytes, or pictures that look alike after resizing or compression."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

BITS, BANDS = 4, 5
"""Hashes that differ in at most ``BITS`` of 64 bits agree in one of ``BITS + 1`` bands."""
REACH = 256
"""Hashes after it, in the order of a band, that a hash is compared with."""
ALIKE = 0.96
"""Least correlation of two signatures. A photo and its copy at half its size and JPEG quality 60 have 0.96 to 1, and
hashes that differ in 0 to 5 bits; those of different photos differ in 20 or more."""


def equal_contents(digests: Mapping[int, bytes]) -> list[list[int]]:
    """Groups of places with the same digest, each ascending."""
    groups = defaultdict(list)
    for place, digest in digests.items():
        groups[digest].append(place)
    return sorted(sorted(group) for group in groups.values() if len(group) > 1)


def look_alike(signatures: np.ndarray) -> list[list[int]]:
    """Groups of places whose pictures look alike, each ascending.

    A perceptual hash (the signs of the lowest frequencies of a cosine transform) finds candidates, the correlation of
    the signatures decides. Mirrored and cropped copies are not found. Groups are connected: the first and the last
    picture of one may differ by more than two neighbors do.

    Args:
        signatures: uint8 [N, 16, 16].
    """
    count = len(signatures)
    if count < 2:
        return []
    flat = np.ascontiguousarray(signatures.reshape(count, -1))
    _, first, of_each = np.unique(flat, axis=0, return_index=True, return_inverse=True)
    of_each = of_each.reshape(-1)
    left, right = _close(_hashes(signatures[first]))
    kept = _correlation(flat[first], left, right) >= ALIKE
    pairs = coo_array((np.ones(kept.sum(), bool), (left[kept], right[kept])), shape=(len(first), len(first)))
    _, labels = connected_components(pairs, directed=False)
    return _groups(labels[of_each])


def _groups(labels: Sequence[int] | np.ndarray) -> list[list[int]]:
    labels = np.asarray(labels)
    order = np.argsort(labels, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    return sorted(group.tolist() for group in groups if len(group) > 1)


def _hashes(signatures: np.ndarray) -> np.ndarray:
    """uint64 [N]."""
    found = []
    for part in np.array_split(signatures, max(1, len(signatures) // 2**16)):
        low = dctn(part.astype(np.float32), axes=(1, 2), norm="ortho")[:, :8, :8].reshape(len(part), 64)
        low[:, 0] = 0  # the mean says nothing
        bits = low > np.median(low[:, 1:], axis=1, keepdims=True)
        found.append(np.packbits(bits, axis=1).view(np.uint64).reshape(-1))
    return np.concatenate(found)


def _close(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of places whose hashes differ in few bits, each pair once or more."""
    edges = np.linspace(0, 64, BANDS + 1).round().astype(int).tolist()
    lefts, rights = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for low, high in pairwise(edges):
        band = (hashes >> np.uint64(low)) & np.uint64(2 ** (high - low) - 1)
        order = np.lexsort((hashes, band))
        band, ordered = band[order], hashes[order]
        for step in range(1, min(REACH, len(hashes) - 1) + 1):
            same = band[step:] == band[:-step]
            if not same.any():
                break
            places = np.flatnonzero(same)
            near = _bits_set(ordered[places + step] ^ ordered[places]) <= BITS
            lefts.append(order[places[near]])
            rights.append(order[places[near] + step])
    return np.concatenate(lefts), np.concatenate(rights)


def _bits_set(numbers: np.ndarray) -> np.ndarray:
    """Of each uint64; NumPy before 2.0 has no function for it."""
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(numbers)
    return np.unpackbits(numbers[:, None].view(np.uint8), axis=1).sum(1)


def _correlation(flat: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Of the rows of uint8 [N, 256] in pairs."""
    found = [np.empty(0)]
    for one, other in zip(*(np.array_split(side, max(1, len(side) // 2**16)) for side in (left, right)), strict=True):
        a, b = (flat[side].astype(np.float32) for side in (one, other))
        a, b = (side - side.mean(1, keepdims=True) for side in (a, b))
        found.append((a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1)))
    return np.concatenate(found)

"""A window of an array that lies in a file as it is, value by value, read from a file that can only seek and read."""

import math
from collections.abc import Sequence
from typing import BinaryIO, Protocol

import numpy as np


class Seekable(Protocol):
    """What is needed of a file."""

    def seek(self, offset: int, /) -> int:
        """Go to a position."""

    def read(self, length: int, /) -> bytes:
        """The next bytes; fewer at the end of the file."""


def read_window(
    file: Seekable | BinaryIO, offset: int, shape: Sequence[int], dtype: np.dtype, ranges: Sequence[range]
) -> np.ndarray:
    """A window of an array in C order; what lies between its parts is not read.

    Args:
        file: where the array is.
        offset: of its first value.
        shape: of the whole array.
        dtype: of its values.
        ranges: of each axis.

    Returns:
        An array of this dtype, as long along each axis as its range.

    Raises:
        ValueError: the file ends before.
    """
    out = np.empty([len(one) for one in ranges], dtype)
    whole = [len(one) == length for one, length in zip(ranges, shape, strict=True)]
    inner = len(shape) - 1
    while inner > 0 and whole[inner]:  # the values along this axis follow each other without gaps
        inner -= 1
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    length = len(ranges[inner]) * strides[inner]
    flat = out.reshape(-1, length)
    for number, outer in enumerate(np.ndindex(*out.shape[:inner])):
        places = [one[n] for one, n in zip(ranges, outer, strict=False)] + [ranges[inner].start]
        at = sum(place * stride for place, stride in zip(places, strides, strict=False))
        file.seek(offset + at * dtype.itemsize)
        data = file.read(length * dtype.itemsize)
        if len(data) < length * dtype.itemsize:
            raise ValueError("truncated: its pixels reach beyond the end of the file")
        flat[number] = np.frombuffer(data, dtype)
    return out

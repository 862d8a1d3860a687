"""NumPy arrays in .npy files, [H, W], [H, W, C] or [C, H, W]; only the window that is asked for is read."""

import contextlib
import io
import math
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from fcmae.data.pixel_reading import PixelReading
from fcmae.data.reading import limits
from fcmae.data.reading.opened import Opened, Window
from fcmae.data.reading.raw import read_window
from fcmae.data.stored import ImageRef, Region, Stored

MAGIC = b"\x93NUMPY"
HEADER = 2**16
"""Bytes within which a header ends."""
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def open_npy(path: ImageRef, reading: PixelReading) -> Opened:
    """The array, mapped into memory.

    Raises:
        ValueError: damaged, truncated, pickled objects, or an array of another number of axes.
    """
    with _known_errors():
        shape, dtype = _shape_and_dtype(path)
    if len(shape) not in (2, 3):
        raise ValueError(f"an array of shape {list(shape)}; an image has [H, W], [H, W, C] or [C, H, W]")
    last = _channels_last(shape, reading)
    channels = 1 if len(shape) == 2 else shape[2 if last else 0]
    height, width = shape if len(shape) == 2 else (shape[:2] if last else shape[1:])
    if 0 in shape:
        raise ValueError(f"an image of {height}×{width} pixels")
    limits.check_size(1, 1, channels * dtype.itemsize, reading.max_pixels)
    # the array itself is left out: it would be pickled whole
    return Opened(
        height, width, channels, dtype, partial(_decode, path, last),
        is_color=last and channels == 3, windowed=True,
    )  # fmt: skip


class Layout(NamedTuple):
    """What a header says."""

    shape: tuple[int, ...]
    in_columns: bool
    """The first axis varies fastest."""
    dtype: np.dtype
    offset: int
    """Of the first value."""


def _layout(header: BinaryIO) -> Layout:
    """Of a file, from its start."""
    version = np.lib.format.read_magic(header)
    if version not in HEADERS:
        raise ValueError(f"a .npy file of version {version[0]}.{version[1]}")
    shape, in_columns, dtype = HEADERS[version](header)
    if dtype.hasobject:
        raise ValueError("Python objects")
    return Layout(shape, in_columns, dtype, header.tell())


@contextlib.contextmanager
def _known_errors() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        if "Python objects" in str(error):
            raise ValueError("pickled objects are never loaded (allow_pickle=False)") from None
        raise


def _shape_and_dtype(path: ImageRef) -> tuple[tuple[int, ...], np.dtype]:
    if isinstance(path, Path) or not path.has_parts():
        array = _mapped(path)
        return array.shape, array.dtype
    with path.open() as file:
        layout = _layout(file)
        if layout.offset + math.prod(layout.shape) * layout.dtype.itemsize > file.seek(0, os.SEEK_END):
            raise ValueError("truncated: its array reaches beyond the end of the file")
    return layout.shape, layout.dtype


def _mapped(path: ImageRef) -> np.ndarray:
    if isinstance(path, Path):
        return np.load(path, mmap_mode="r", allow_pickle=False)
    region = path.region()
    return np.load(path.open(), allow_pickle=False) if region is None else _mapped_part(region)


def _mapped_part(region: Region) -> np.ndarray:
    """An array that is a part of a file."""
    whole = np.memmap(region.path, np.uint8, "r", offset=region.offset, shape=(region.size,))
    shape, in_columns, dtype, offset = _layout(io.BytesIO(whole[:HEADER].tobytes()))
    return np.ndarray(shape, dtype, whole, offset, order="F" if in_columns else "C")


def _channels_last(shape: tuple[int, ...], reading: PixelReading) -> bool:
    """Of three axes: whether the last one holds the channels; where both may, the last, which is more common."""
    if len(shape) != 3:
        return False
    if reading.bands is not None:
        return shape[2] <= shape[0]
    wanted = reading.in_chans
    if shape[2] == wanted:
        return True
    return shape[0] != wanted and (shape[2] in (1, 3, 4) or shape[2] < shape[0])


def _decode(path: ImageRef, last: bool, _reduce: int, window: Window | None, _plane: int) -> np.ndarray:
    if isinstance(path, Stored) and path.has_parts():
        return _fetched(path, last, window)
    chw = _channels_first(_mapped(path), last)
    if window is not None:
        chw = chw[:, window.top : window.top + window.height, window.left : window.left + window.width]
    return np.array(chw)


def _channels_first(array: np.ndarray, last: bool) -> np.ndarray:
    return array[None] if array.ndim == 2 else (array.transpose(2, 0, 1) if last else array)


def _fetched(path: Stored, last: bool, window: Window | None) -> np.ndarray:
    """The window [C, h, w], of which only its own rows are read."""
    with path.open() as file:
        layout = _layout(file)
        ranges = [range(length) for length in layout.shape]
        if window is not None:
            row = 0 if last else len(ranges) - 2
            ranges[row] = range(window.top, window.top + window.height)
            ranges[row + 1] = range(window.left, window.left + window.width)
        step = -1 if layout.in_columns else 1  # of the axes, as they lie in the file
        found = read_window(file, layout.offset, layout.shape[::step], layout.dtype, ranges[::step])
    return _channels_first(found.T if layout.in_columns else found, last)

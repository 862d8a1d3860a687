"""NumPy arrays in .npy files, [H, W], [H, W, C] or [C, H, W]; only the window that is asked for is read."""

import io
from functools import partial
from pathlib import Path

import numpy as np

from fcmae.data.pixel_reading import PixelReading
from fcmae.data.reading import limits
from fcmae.data.reading.opened import Opened, Window
from fcmae.data.stored import ImageRef, Region

MAGIC = b"\x93NUMPY"
HEADER = 2**16
"""Bytes within which a header ends."""
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def open_npy(path: ImageRef, reading: PixelReading) -> Opened:
    """The array, mapped into memory.

    Raises:
        ValueError: damaged, truncated, pickled objects, or an array of another number of axes.
    """
    array = _mapped(path)
    if array.ndim not in (2, 3):
        raise ValueError(f"an array of shape {list(array.shape)}; an image has [H, W], [H, W, C] or [C, H, W]")
    last = _channels_last(array.shape, reading)
    channels = 1 if array.ndim == 2 else array.shape[2 if last else 0]
    height, width = array.shape if array.ndim == 2 else (array.shape[:2] if last else array.shape[1:])
    if 0 in array.shape:
        raise ValueError(f"an image of {height}×{width} pixels")
    limits.check_size(1, 1, channels * array.dtype.itemsize, reading.max_pixels)
    # the array itself is left out: it would be pickled whole
    return Opened(
        height, width, channels, array.dtype, partial(_decode, path, last),
        is_color=last and channels == 3, windowed=True,
    )  # fmt: skip


def _mapped(path: ImageRef) -> np.ndarray:
    try:
        if isinstance(path, Path):
            return np.load(path, mmap_mode="r", allow_pickle=False)
        region = path.region()
        return np.load(path.open(), allow_pickle=False) if region is None else _mapped_part(region)
    except ValueError as error:
        if "Python objects" in str(error):
            raise ValueError("pickled objects are never loaded (allow_pickle=False)") from None
        raise


def _mapped_part(region: Region) -> np.ndarray:
    """An array that is a part of a file."""
    whole = np.memmap(region.path, np.uint8, "r", offset=region.offset, shape=(region.size,))
    header = io.BytesIO(whole[:HEADER].tobytes())
    version = np.lib.format.read_magic(header)
    if version not in HEADERS:
        raise ValueError(f"a .npy file of version {version[0]}.{version[1]}")
    shape, in_columns, dtype = HEADERS[version](header)
    if dtype.hasobject:
        raise ValueError("Python objects")
    return np.ndarray(shape, dtype, whole, header.tell(), order="F" if in_columns else "C")


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
    array = _mapped(path)
    chw = array[None] if array.ndim == 2 else (array.transpose(2, 0, 1) if last else array)
    if window is not None:
        chw = chw[:, window.top : window.top + window.height, window.left : window.left + window.width]
    return np.array(chw)

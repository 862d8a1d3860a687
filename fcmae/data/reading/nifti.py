"""NIfTI volumes: each slice is a plane, seen as DICOM shows it; a fourth axis is channels or further planes.

What is not compressed is mapped into memory, so that a slice costs its own bytes. A .nii.gz is inflated as a whole;
each process keeps the last one.
"""

import gzip
import math
import os
from collections.abc import Hashable
from functools import partial
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from fcmae.data.pixel_reading import PixelReading
from fcmae.data.reading import limits
from fcmae.data.reading.needs import needed
from fcmae.data.reading.opened import Opened, Window
from fcmae.data.stored import ImageRef, Region, identity_of, region_of

MAGIC = {344: (b"n+1\0",), 4: (b"n+2\0",)}
"""Position in the file → what NIfTI-1 and NIfTI-2 have there; pairs of .hdr and .img are not read."""
GZIP = b"\x1f\x8b"
HEADER = 544  # bytes of the longer header, and what says whether there are extensions


class Volume(NamedTuple):
    """The stored numbers of a file, in its own order of axes."""

    stored: np.ndarray
    slope: float
    intercept: float
    orientation: np.ndarray
    """nibabel's: for each axis the axis of Right, Anterior, Superior, and 1 or -1."""

    @property
    def is_scaled(self) -> bool:
        """The numbers are not those that are stored."""
        return (self.slope, self.intercept) != (1, 0)


def is_nifti(start: bytes) -> bool:
    """Whether a file that begins so is NIfTI, or a gzip file that may be."""
    if start.startswith(GZIP):
        return True
    return any(start[at : at + 4] in magics for at, magics in MAGIC.items())


def open_nifti(image: ImageRef, reading: PixelReading) -> Opened:
    """Slices of a volume as ``reading.slices`` asks for, from the first to the last along Right, Anterior, Superior.

    Args:
        image: the file.
        reading: with ``stack`` images, each volume of a fourth axis has slices of its own; with channels, the fourth
            axis, or else the slices, are the channels of one image. auto: the fourth axis is channels if they fit.

    Raises:
        ValueError: damaged, truncated, too large, or nibabel is missing.
    """
    volume = _volume(image, reading)
    seen = _seen(volume, reading.slices)
    count, height, width, times = seen.shape
    colors = len(seen.dtype.names or (0,))
    as_channels = _as_channels(count, times, colors, reading)
    channels = colors * {"none": 1, "times": times, "slices": count * times}[as_channels]
    planes = count * times * colors // channels
    dtype = np.dtype(np.float32) if volume.is_scaled else _plain(seen.dtype)
    limits.check_size(1, 1, channels * dtype.itemsize, reading.max_pixels)
    return Opened(
        height, width, channels, dtype, partial(_decode, image, reading, as_channels),
        is_color=colors == 3 and channels == 3, has_alpha=colors == 4 and channels == 4, planes=planes, windowed=True,
    )  # fmt: skip


def _as_channels(count: int, times: int, colors: int, reading: PixelReading) -> str:
    if reading.stack == "images":
        return "none"
    if reading.stack == "channels":
        return "times" if times > 1 else "slices"
    wanted = reading.in_chans if reading.bands is None else max(reading.bands)
    if times > 1 and (times * colors == wanted or reading.bands is not None):
        return "times"
    return "none"


def _plain(dtype: np.dtype) -> np.dtype:
    """Of numbers, or of one color."""
    one = dtype[0] if dtype.names else dtype
    return np.dtype(np.float64) if one.kind == "f" and one.itemsize > 8 else one.newbyteorder("=")


def _decode(
    image: ImageRef, reading: PixelReading, as_channels: str, _reduce: int, window: Window | None, plane: int
) -> np.ndarray:
    volume = _volume(image, reading)
    seen = _seen(volume, reading.slices)
    if window is not None:
        rows, columns = slice(window.top, window.top + window.height), slice(window.left, window.left + window.width)
        seen = seen[:, rows, columns]
    if as_channels == "slices":
        array = seen.transpose(0, 3, 1, 2).reshape(-1, *seen.shape[1:3])
    elif as_channels == "times":
        array = seen[plane].transpose(2, 0, 1)
    else:
        array = seen[plane % len(seen), ..., plane // len(seen)][None]
    if array.dtype.names:
        array = np.concatenate([array[name] for name in array.dtype.names])
    array = np.ascontiguousarray(array, dtype=_plain(array.dtype))
    if not volume.is_scaled:
        return np.array(array)
    return (array * volume.slope + volume.intercept).astype(np.float32)


def _seen(volume: Volume, slices: str) -> np.ndarray:
    """[slices, rows, columns, times], a view. Rows go to Posterior or Inferior, columns to Left or Posterior."""
    from nibabel.orientations import apply_orientation

    four = volume.stored.reshape(*volume.stored.shape[:3], -1, order="F")
    canonical = apply_orientation(four, volume.orientation)  # to Right, Anterior, Superior
    if slices == "axial":
        return canonical[::-1, ::-1].transpose(2, 1, 0, 3)
    if slices == "coronal":
        return canonical[::-1, :, ::-1].transpose(1, 2, 0, 3)
    return canonical[:, ::-1, ::-1].transpose(0, 2, 1, 3)


_kept: dict[Hashable, Volume] = {}


def _volume(image: ImageRef, reading: PixelReading) -> Volume:
    nibabel = needed("nibabel", "nifti", "NIfTI")
    key = os.getpid(), identity_of(image)
    if key in _kept:
        return _kept[key]
    with image.open("rb") as opened:
        head = opened.read(HEADER)
        if not head.startswith(GZIP) and (region := region_of(image)) is not None:
            return _mapped(nibabel, head, region)
        size = opened.seek(0, os.SEEK_END)
        opened.seek(0)
        _kept.clear()
        _kept[key] = found = _loaded(nibabel, opened, size, reading)
    return found


def _mapped(nibabel: Any, head: bytes, region: Region) -> Volume:
    header, affine = _header(nibabel, head)
    shape, dtype, offset = header.get_data_shape(), header.get_data_dtype(), header.get_data_offset()
    if offset + math.prod(shape) * dtype.itemsize > region.size:
        raise ValueError("truncated: its volume reaches beyond the end of the file")
    stored = np.memmap(region.path, dtype, "r", region.offset + offset, shape, order="F")
    return _described(stored, header, affine, nibabel)


def _loaded(nibabel: Any, opened: BinaryIO, size: int, reading: PixelReading) -> Volume:
    """Into memory, from an open file that may be compressed."""
    start = opened.read(2)
    opened.seek(0)
    plain: Any = gzip.GzipFile(fileobj=opened) if start == GZIP else opened
    head = plain.read(HEADER)
    if not any(head[at : at + 4] in magics for at, magics in MAGIC.items()):
        raise ValueError("a gzip file that holds no NIfTI volume")
    header, affine = _header(nibabel, head)
    shape, dtype, offset = header.get_data_shape(), header.get_data_dtype(), header.get_data_offset()
    needs = offset + math.prod(shape) * dtype.itemsize
    if needs > reading.max_pixels * limits.BYTES_PER_PIXEL:
        raise ValueError(
            f"a compressed volume of {needs} bytes is more than the limit of {reading.max_pixels} pixels "
            f"({limits.BYTES_PER_PIXEL} bytes each); unpack it with gunzip, or --data.max_pixels raises it"
        )
    limits.check_plausible(needs, size, limits.DEFLATE)
    data = bytearray(head[:needs])
    data += plain.read(needs - len(data))
    if len(data) < needs:
        raise ValueError("truncated: its volume reaches beyond the end of the file")
    stored = np.frombuffer(data, dtype, math.prod(shape), offset).reshape(shape, order="F")
    return _described(stored, header, affine, nibabel)


def _header(nibabel: Any, head: bytes) -> tuple[Any, np.ndarray]:
    """The header, and the affine that it states.

    Raises:
        ValueError: axes without length, or more of them than a picture can have.
    """
    is_second = head[4:8] in MAGIC[4]
    kind = nibabel.Nifti2Header if is_second else nibabel.Nifti1Header
    if len(head) < kind.sizeof_hdr:
        raise ValueError("truncated: it ends within its header")
    header = kind(head[: kind.sizeof_hdr], check=False)
    shape = header.get_data_shape()
    if not 2 <= len(shape) <= 7 or min(shape) < 1:
        raise ValueError(f"damaged: a volume of shape {list(shape)}")
    if header.get_data_offset() < kind.sizeof_hdr:
        raise ValueError(f"damaged: its volume begins at byte {header.get_data_offset()}")
    return header, header.get_best_affine()


def _described(stored: np.ndarray, header: Any, affine: np.ndarray, nibabel: Any) -> Volume:
    slope, intercept = header.get_slope_inter()
    if stored.ndim < 3:
        stored = stored.reshape(*stored.shape, *(1,) * (3 - stored.ndim))
    orientation = nibabel.io_orientation(affine) if np.isfinite(affine).all() else np.full((3, 2), np.nan)
    if np.isnan(orientation).any():  # an affine that says nothing: as if it were the identity
        orientation = np.array([[0, 1], [1, 1], [2, 1]])
    return Volume(stored, 1.0 if slope is None else slope, 0.0 if intercept is None else intercept, orientation)

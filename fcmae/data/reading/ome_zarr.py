"""OME-Zarr images (0.1 … 0.5), a folder or a zip file: windows read the chunks that they touch, from any level."""

import math
import os
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fcmae.data.pixel_reading import PixelReading
from fcmae.data.reading import limits
from fcmae.data.reading.needs import needed
from fcmae.data.reading.opened import Opened, Window
from fcmae.data.reading.tiff_levels import checked_level, factors, reduced
from fcmae.data.stored import ImageRef
from fcmae.data.zarr_folders import metadata_of, multiscales

ZIP = b"PK\x03\x04"
OLD_AXES = "tczyx"
MOST = 2**28  # values of a chunk of a smaller level


class Levels(NamedTuple):
    """The pyramid of an image, from the level that stands for it."""

    arrays: list[Any]
    axes: str
    """Of each array, one letter an axis."""

    def hw(self, array: Any) -> tuple[int, int]:
        """Height and width of one level."""
        return array.shape[self.axes.index("y")], array.shape[self.axes.index("x")]

    def outer(self, array: Any) -> dict[str, int]:
        """Lengths of the axes other than y and x."""
        return {axis: n for axis, n in zip(self.axes, array.shape, strict=True) if axis not in "yx"}

    @property
    def alike(self) -> list[Any]:
        """The first, and those that differ from it in height and width alone and whose chunks are not too large."""
        base = self.arrays[0]
        smaller = [one for one in self.arrays[1:] if self.outer(one) == self.outer(base)]
        return [base, *(one for one in smaller if math.prod(one.chunks) <= MOST)]


def open_zarr(path: ImageRef, reading: PixelReading) -> Opened:
    """The first image of the file: the axis c is channels, t and z are planes, as in an OME-TIFF.

    Raises:
        ValueError: damaged, no image, a level that it does not have, or zarr is missing.
    """
    if not isinstance(path, Path):
        raise ValueError("a zipped Zarr within an archive or behind a URL is not read; unpack or download it")
    levels = _levels(path, reading.level)
    base = levels.arrays[0]
    height, width = levels.hw(base)
    outer = levels.outer(base)
    own = outer.get("c", 1)
    others = math.prod(outer.values()) // max(1, own)
    all_in_one = reading.stack == "channels" or (reading.stack == "auto" and others * own == reading.in_chans)
    channels, planes = (others * own, 1) if all_in_one else (own, others)
    dtype = np.dtype(base.dtype).newbyteorder("=")
    if not height or not width or not channels or not planes:
        raise ValueError(f"an image of shape {list(base.shape)}")
    limits.check_size(1, 1, channels * dtype.itemsize, reading.max_pixels)
    limits.check_size(1, 1, math.prod(base.chunks) * dtype.itemsize, reading.max_pixels)
    return Opened(
        height, width, channels, dtype, partial(_decode, path, reading.level, all_in_one),
        planes=planes, windowed=True, reductions=factors([levels.hw(one) for one in levels.alike]),
    )  # fmt: skip


def _decode(path: Path, level: int, all_in_one: bool, reduce: int, window: Window | None, plane: int) -> np.ndarray:
    levels = _levels(path, level)
    base = levels.arrays[0]
    height, width = levels.hw(base)
    asked = window or Window(0, 0, height, width)
    array = base
    if reduce > 1:
        array = levels.alike[factors([levels.hw(one) for one in levels.alike]).index(reduce)]
        asked = reduced(asked, reduce, *levels.hw(array))
    planes = {axis: n for axis, n in levels.outer(base).items() if axis != "c"}
    places = dict(zip(planes, np.unravel_index(plane, tuple(planes.values()) or (1,)), strict=False))
    parts = {
        "y": slice(asked.top, asked.top + asked.height),
        "x": slice(asked.left, asked.left + asked.width),
        **{axis: slice(None) if all_in_one else slice(int(n), int(n) + 1) for axis, n in places.items()},
    }
    found = np.asarray(array[tuple(parts.get(axis, slice(None)) for axis in levels.axes)])
    order = [*(n for n, axis in enumerate(levels.axes) if axis not in "yx"), *map(levels.axes.index, "yx")]
    found = found.transpose(order)
    return np.ascontiguousarray(found.reshape(-1, *found.shape[-2:]))


def _levels(path: Path, level: int) -> Levels:
    """The levels from this one on. The last few images stay open in each process."""
    changed = os.stat(metadata_of(path) or path).st_mtime_ns
    return _opened(os.getpid(), path, changed, level)


@lru_cache(maxsize=8)
def _opened(_process: int, path: Path, _changed: int, level: int) -> Levels:
    zarr = needed("zarr", "zarr", "OME-Zarr")
    store = zarr.storage.LocalStore(path, read_only=True) if path.is_dir() else zarr.storage.ZipStore(path, mode="r")
    group = zarr.open_group(store, mode="r", use_consolidated=False)
    stated = multiscales(dict(group.attrs))
    if not stated:
        raise ValueError("a Zarr group that describes no OME-Zarr image (multiscales)")
    first = stated[0]
    paths = [str(one["path"]) for one in first["datasets"]]
    arrays = [group[one] for one in paths[checked_level(level, len(paths)) :]]
    axes = _axes(first.get("axes"), arrays[0].ndim)
    if any(len(one.shape) != len(axes) for one in arrays):
        raise ValueError(f"damaged: arrays of {[len(one.shape) for one in arrays]} axes where {axes} are stated")
    return Levels(arrays, axes)


def _axes(stated: Any, count: int) -> str:
    """One letter an axis, y and x among them.

    Raises:
        ValueError: the metadata states others.
    """
    if stated is None:
        return OLD_AXES[-count:]
    names = [str(one["name"] if isinstance(one, dict) else one).lower() for one in stated]
    kinds = [one.get("type") if isinstance(one, dict) else None for one in stated]
    letters = "".join("c" if kind == "channel" else name[:1] for name, kind in zip(names, kinds, strict=True))
    if len(set(letters)) != len(letters) or not {"x", "y"} <= set(letters) or len(letters) != count:
        raise ValueError(f"axes {names} of an array of {count} are not read; there must be y and x, each once")
    return letters

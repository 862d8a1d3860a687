"""The file's values → 0 … 1. A missing value becomes NaN, and stays NaN until it is normalized."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fcmae.data.reading.opened import Opened

Pairs = tuple[tuple[float, float], ...]


def missing(array: np.ndarray, nodata: float | None) -> np.ndarray | None:
    """bool of the array's shape [C, H, W]: no value there; None if every value is one.

    Values that are not finite, and those equal to ``nodata``. In unsigned integers, where that value is often also an
    ordinary one, a pixel is missing only if all of its channels have it.
    """
    found: Any = ~np.isfinite(array) if array.dtype.kind == "f" else None
    if nodata is not None and np.isfinite(nodata):
        if array.dtype.kind == "f":
            with np.errstate(all="ignore"):
                tolerance = max(abs(nodata) * 1e-6, 0.0)  # tags hold few decimals
                found |= np.abs(array.astype(np.float64) - nodata) <= tolerance
        elif nodata == int(nodata):
            equal = array == int(nodata) if _holds(array.dtype, int(nodata)) else None
            if equal is not None and array.dtype.kind == "u":
                equal = np.broadcast_to(equal.all(axis=0), array.shape)
            found = equal
    return found if found is not None and found.any() else None


def _holds(dtype: np.dtype, value: int) -> bool:
    if dtype == np.bool_:
        return False
    return np.iinfo(dtype).min <= value <= np.iinfo(dtype).max


def in_unit_range(array: np.ndarray, gone: np.ndarray | None, pairs: Pairs | None, full_scale: float | None) -> Tensor:
    """[C, H, W] → uint8 as it is, or float32 in 0 … 1 with NaN where ``gone``.

    Args:
        array: any real dtype.
        gone: from :func:`missing`.
        pairs: (low, high) of each channel, clipped and mapped to 0 and 1.
        full_scale: the value of 1 if there are no pairs.
    """
    if pairs is None and array.dtype == np.uint8 and gone is None:
        return torch.from_numpy(_own(array))
    if pairs is None and full_scale is not None:
        scaled = array.astype(np.float32)
        if full_scale != 1:
            scaled /= np.float32(full_scale)
    else:
        scaled = _stretched(array, pairs or ((0.0, 1.0),) * len(array))
    if gone is not None:
        scaled[gone] = np.nan
    return torch.from_numpy(scaled)


def _own(array: np.ndarray) -> np.ndarray:
    """The array as torch takes it: writable, and read in forward direction only."""
    return array if array.flags.writeable and min(array.strides, default=0) >= 0 else array.copy()


def _stretched(array: np.ndarray, pairs: Pairs) -> np.ndarray:
    scaled = np.empty(array.shape, np.float32)
    for channel, (low, high), out in zip(array, pairs, scaled, strict=True):
        half = channel.astype(np.float64) / 2  # halves, because a span may be beyond the largest number
        with np.errstate(invalid="ignore"):
            out[...] = np.clip((half - low / 2) / (high / 2 - low / 2), 0, 1)
    return scaled


def own_pairs(array: np.ndarray, gone: np.ndarray | None) -> Pairs | None:
    """Each channel's smallest and largest value, for a file of wide values where nothing else is known.

    None if all of them are in 0 … 1 already.
    """
    if gone is not None and gone.all():
        raise ValueError("holds values that are not finite, or nodata, and no others")
    extremes = []
    for number, channel in enumerate(array):
        values = channel[~gone[number]] if gone is not None else channel
        extremes.append((float(values.min()), float(values.max())) if values.size else (0.0, 1.0))
    if array.dtype.kind == "f" and all(low >= 0 and high <= 1 for low, high in extremes):
        return None
    return tuple(
        (low, high if high > low else max(low + 1, float(np.nextafter(low, np.inf)))) for low, high in extremes
    )


def check_dtype(opened: Opened) -> None:
    """ValueError for values that are no real numbers."""
    if opened.dtype.kind not in "uifb":
        raise ValueError(f"unsupported dtype {opened.dtype}")

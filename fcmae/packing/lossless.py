"""Images whose values must survive: resized without mixing in missing pixels, and written as TIFF."""

import io
from typing import Any, NamedTuple

import numpy as np
import tifffile
import torch

from fcmae.data.crops import resized

GDAL_NODATA = 42113


class Plane(NamedTuple):
    """One image of a file, of its final size."""

    values: np.ndarray
    """[C, h, w], dtype of the file."""
    nodata: float | None
    """The value of missing pixels; None: none is missing, or NaN says so."""


def shrunk(array: np.ndarray, gone: np.ndarray | None, nodata: float | None, hw: tuple[int, int]) -> Plane:
    """The values in another size, with the file's dtype; of the same size they stay as they are.

    Args:
        array: [C, H, W].
        gone: bool of the same shape, True where there is no value; None: nowhere. Such pixels have no weight.
        nodata: the value of missing pixels; None: one that no pixel has is chosen if it is needed.
        hw: height and width of the result.

    Raises:
        ValueError: pixels are missing and every value of the dtype occurs.
    """
    is_float = array.dtype.kind == "f"
    if array.shape[1:] == hw:
        values, missing = array.copy(), gone
    else:
        values, missing = _resized(array, gone, hw)
    if nodata is None and missing is not None and not is_float:
        nodata = _free_value(values, missing)
    if missing is not None:
        values[missing] = nodata if nodata is not None else np.nan
    if nodata is not None and not is_float and array.shape[1:] != hw:
        _keep_apart(values, missing, nodata)
    return Plane(values, nodata)


def _resized(array: np.ndarray, gone: np.ndarray | None, hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray | None]:
    """Each channel in 0 … 1 for :func:`resized`, which clips what overshoots, and back."""
    values = array.astype(np.float64)
    if gone is not None:
        values[gone] = np.nan
    out = np.empty((len(array), *hw), array.dtype)
    lost = np.zeros(out.shape, bool)
    for channel, to, missing in zip(values, out, lost, strict=True):
        there = channel[~np.isnan(channel)]
        low, high = (float(there.min()), float(there.max())) if there.size else (0.0, 1.0)
        span = high - low or 1.0
        unit = torch.from_numpy(((channel - low) / span).astype(np.float32))
        small = resized(unit[None], hw)[0].numpy().astype(np.float64)
        missing[...] = np.isnan(small)
        found = np.nan_to_num(small) * span + low
        to[...] = found if array.dtype.kind == "f" else np.rint(found)
    return out, lost if lost.any() else None


def _free_value(values: np.ndarray, missing: np.ndarray) -> float:
    info = np.iinfo(values.dtype)
    for value in (0, info.min, info.max, *range(1, min(int(info.max), 4096))):
        if not _equal(values, value)[~missing].any():
            return float(value)
    raise ValueError("pixels are missing by a mask, and every value occurs that could mark them")


def _equal(values: np.ndarray, value: int) -> np.ndarray:
    """Where a value means that there is no data: in unsigned integers only if all channels have it."""
    equal = values == value
    return np.broadcast_to(equal.all(axis=0), equal.shape) if values.dtype.kind == "u" else equal


def _keep_apart(values: np.ndarray, missing: np.ndarray | None, nodata: float) -> None:
    """A pixel that resizing gave the value of missing ones gets the next value."""
    info = np.iinfo(values.dtype)
    if nodata != int(nodata) or not info.min <= nodata <= info.max:
        return
    there = _equal(values, int(nodata)) & (True if missing is None else ~missing)
    values[there] = int(nodata) + (1 if nodata < info.max else -1)


def as_tiff(values: np.ndarray, nodata: float | None, is_color: bool, has_alpha: bool) -> bytes:
    """A deflated TIFF of [P, C, H, W]: a page per plane, the channels in samples; the same bytes each time."""
    planes, channels = values.shape[:2]
    data: np.ndarray = values
    options: dict[str, Any] = {"photometric": "minisblack"}
    if is_color and channels - has_alpha == 3:
        data = np.moveaxis(values, 1, 3)
        options = {"photometric": "rgb", "planarconfig": "contig"}
        if has_alpha:
            options["extrasamples"] = ["unassalpha"]
    elif channels > 1:
        options["planarconfig"] = "separate"
        options["extrasamples"] = ["unspecified"] * (channels - 1 - has_alpha) + ["unassalpha"] * has_alpha
    else:
        data = values[:, 0]
    if planes == 1:
        data = data[0]
    if nodata is not None:
        options["extratags"] = [(GDAL_NODATA, "s", 0, f"{nodata:.17g}", True)]
    whole = io.BytesIO()
    with tifffile.TiffWriter(whole) as tiff:
        for plane in data if planes > 1 else [data]:
            tiff.write(
                np.ascontiguousarray(plane), compression="zlib", predictor=_predictor(values.dtype), metadata=None,
                contiguous=False, software=False, **options,
            )  # fmt: skip
    return whole.getvalue()


def _predictor(dtype: np.dtype) -> bool:
    """Differences compress better, of the widths that every reader knows."""
    return dtype.kind in "ui" and dtype.itemsize <= 2

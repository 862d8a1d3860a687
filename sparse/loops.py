"""What PyTorch does on a CPU in several passes over memory, in one: loops that Numba compiles when they are first run.

Numba comes from PyPI with its own compiler; nothing is built at installation. Each loop is compiled for float32 and for
float64, a second or two, and kept on disk: beside this file, where ``NUMBA_CACHE_DIR`` says, or in the user's cache.

Sums are cut into parts by their length alone, so results do not depend on the number of threads, bit for bit.
Import :mod:`fcmae.sparse.compiled`, which knows whether Numba is there.
"""

import os
import threading
from typing import Any

import numba
import torch
from numba import njit, prange
from torch import Tensor

PROCESS = os.getpid()  # that may run the loops: Numba's threads do not survive a fork
INTERPRETED: bool = numba.config.DISABLE_JIT  # type: ignore[attr-defined]
MOST_THREADS: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
ROWS_PER_PART, MOST_PARTS = 32, 64  # of wgrad: each part has a sum of its own, [k·k, C]
SITES_PER_PART = 128  # of the sums over an image

# Sums may be reordered; NaN and ∞ mean what they mean
_compiled: Any = njit(parallel=True, fastmath={"reassoc", "contract", "nsz"}, error_model="numpy", cache=True)
# one of Numba's thread pools, the one it takes where there is no OpenMP, does not bear two callers at once
_one_caller = threading.Lock()


def launch_threads() -> None:
    """Raises ValueError if Numba is set to a threading layer that is not there."""
    numba.get_num_threads()


def _run(loop: Any, *args: Tensor | int) -> None:
    arrays = (arg.detach().contiguous().numpy() if isinstance(arg, Tensor) else arg for arg in args)
    with _one_caller:
        before = numba.get_num_threads()
        numba.set_num_threads(min(torch.get_num_threads(), MOST_THREADS))
        try:
            loop(*arrays)
        finally:
            numba.set_num_threads(before)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, window: Tensor, raster_of_z: Tensor) -> Tensor:
    """Submanifold depthwise convolution.

    Args:
        x: [rows, C].
        weight: [C, 1, k, k].
        bias: [C] or None.
        window: int64 [N, (s + k − 1)²], the rows of each patch and its halo; ``rows`` where there is no site.
        raster_of_z: int64 [s·s], place in raster order of each site of a patch.
    """
    out = x.new_empty(x.shape)
    start = x.new_zeros(x.shape[1]) if bias is None else bias
    side, size = _side(raster_of_z), weight.shape[-1]
    _run(_convolve, x, weight.flatten(1).t(), start, window, raster_of_z, side, size, out)
    return out


def wgrad(x: Tensor, dy: Tensor, weight: Tensor, window: Tensor, raster_of_z: Tensor) -> Tensor:
    """Its gradient to the weight, [C, 1, k, k]; ``dy`` is [rows, C]."""
    side, size = _side(raster_of_z), weight.shape[-1]
    num_parts = max(1, min(MOST_PARTS, len(x) // ROWS_PER_PART))
    parts = x.new_zeros(num_parts, size * size, x.shape[1])
    _run(_wgrad, x, dy, window, raster_of_z, side, size, parts)
    return parts.sum(0).t().reshape(weight.shape)


def sum_of_squares(x_BMC: Tensor) -> Tensor:
    """Over the sites of each image, [B, 1, C]."""
    parts = _parts_like(x_BMC)
    _run(_sum_of_squares, x_BMC, parts)
    return parts.sum(1, keepdim=True)


def sums_with(dy_BMC: Tensor, x_BMC: Tensor) -> tuple[Tensor, Tensor]:
    """Over the sites of each image, dy · x and dy, [B, 1, C] each."""
    products, plain = _parts_like(x_BMC), _parts_like(x_BMC)
    _run(_sums_with, dy_BMC, x_BMC, products, plain)
    return products.sum(1, keepdim=True), plain.sum(1, keepdim=True)


def scale_and_shift(x_BMC: Tensor, scale_B1C: Tensor, shift_C: Tensor) -> Tensor:
    """x · scale + shift."""
    out = x_BMC.new_empty(x_BMC.shape)
    _run(_scale_and_shift, x_BMC, scale_B1C, shift_C, out)
    return out


def combine(dy_BMC: Tensor, scale_B1C: Tensor, x_BMC: Tensor, factor_B1C: Tensor) -> Tensor:
    """dy · scale + x · factor."""
    out = x_BMC.new_empty(x_BMC.shape)
    _run(_combine, dy_BMC, scale_B1C, x_BMC, factor_B1C, out)
    return out


def _side(raster_of_z: Tensor) -> int:
    return 1 << (len(raster_of_z).bit_length() - 1) // 2  # s = 2ⁿ, s·s = 4ⁿ


def _parts_like(x_BMC: Tensor) -> Tensor:
    batch, sites, channels = x_BMC.shape
    return x_BMC.new_zeros(batch, -(-sites // SITES_PER_PART), channels)


@_compiled
def _convolve(x, taps, bias, window, raster_of_z, side, size, out):  # type: ignore[no-untyped-def]
    """A site at a time; of the taps that meet a site, four at a time, so that the output is not read for each."""
    rows, channels = out.shape
    halo_side = side + size - 1
    for row in prange(rows):
        patch, place = row // (side * side), raster_of_z[row % (side * side)]
        corner = place // side * halo_side + place % side
        for c in range(channels):
            out[row, c] = bias[c]
        tap = 0
        while tap < size * size:
            found = row0 = row1 = row2 = row3 = tap0 = tap1 = tap2 = tap3 = 0
            while tap < size * size and found < 4:
                there = window[patch, corner + tap // size * halo_side + tap % size]
                if there < rows:
                    row0, row1, row2, row3 = row1, row2, row3, there
                    tap0, tap1, tap2, tap3 = tap1, tap2, tap3, tap
                    found += 1
                tap += 1
            if found == 4:
                for c in range(channels):
                    out[row, c] += (x[row0, c] * taps[tap0, c] + x[row1, c] * taps[tap1, c]) + (
                        x[row2, c] * taps[tap2, c] + x[row3, c] * taps[tap3, c]
                    )
                continue
            if found > 2:
                for c in range(channels):
                    out[row, c] += x[row1, c] * taps[tap1, c]
            if found > 1:
                for c in range(channels):
                    out[row, c] += x[row2, c] * taps[tap2, c]
            if found > 0:
                for c in range(channels):
                    out[row, c] += x[row3, c] * taps[tap3, c]


@_compiled
def _wgrad(x, dy, window, raster_of_z, side, size, parts):  # type: ignore[no-untyped-def]
    """Each part takes some of the rows."""
    rows, channels = dy.shape
    num_parts, halo_side = parts.shape[0], side + size - 1
    for part in prange(num_parts):
        for row in range(part * rows // num_parts, (part + 1) * rows // num_parts):
            patch, place = row // (side * side), raster_of_z[row % (side * side)]
            corner = place // side * halo_side + place % side
            for tap in range(size * size):
                there = window[patch, corner + tap // size * halo_side + tap % size]
                if there < rows:
                    for c in range(channels):
                        parts[part, tap, c] += x[there, c] * dy[row, c]


@_compiled
def _sum_of_squares(x, parts):  # type: ignore[no-untyped-def]
    (_, sites, channels), per_image = x.shape, parts.shape[1]
    for number in prange(parts.shape[0] * per_image):
        image, part = number // per_image, number % per_image
        for site in range(part * sites // per_image, (part + 1) * sites // per_image):
            for c in range(channels):
                parts[image, part, c] += x[image, site, c] * x[image, site, c]


@_compiled
def _sums_with(dy, x, products, plain):  # type: ignore[no-untyped-def]
    (_, sites, channels), per_image = x.shape, products.shape[1]
    for number in prange(products.shape[0] * per_image):
        image, part = number // per_image, number % per_image
        for site in range(part * sites // per_image, (part + 1) * sites // per_image):
            for c in range(channels):
                products[image, part, c] += dy[image, site, c] * x[image, site, c]
                plain[image, part, c] += dy[image, site, c]


@_compiled
def _scale_and_shift(x, scale, shift, out):  # type: ignore[no-untyped-def]
    batch, sites, channels = x.shape
    for row in prange(batch * sites):
        image, site = row // sites, row % sites
        for c in range(channels):
            out[image, site, c] = x[image, site, c] * scale[image, 0, c] + shift[c]


@_compiled
def _combine(dy, scale, x, factor, out):  # type: ignore[no-untyped-def]
    batch, sites, channels = x.shape
    for row in prange(batch * sites):
        image, site = row // sites, row % sites
        for c in range(channels):
            out[image, site, c] = dy[image, site, c] * scale[image, 0, c] + x[image, site, c] * factor[image, 0, c]

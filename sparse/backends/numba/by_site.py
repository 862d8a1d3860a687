"""Depthwise convolution site by site: each looks up the rows of its neighbors and skips those that are masked.

A tap's place in the window is a corner plus a step, both precomputed: integer divisions per tap would dominate.
"""

import numpy as np
from numba import prange

from fcmae.sparse.backends.numba.runtime import device_function, inlined, parallel_kernel, wide_vectors


@parallel_kernel
def convolve_by_site(x, weight, bias, window, raster_of_z, side, size, out):  # type: ignore[no-untyped-def]
    """Four taps at a time, so that the output is not read for each."""
    rows, channels = out.shape
    corners, steps = _positions(raster_of_z, side, size)
    taps = np.empty((size * size, channels), x.dtype)
    for tap in range(size * size):
        for c in range(channels):
            taps[tap, c] = weight[c, tap]
    for row in prange(rows):
        wide_vectors()
        patch, corner = row // (side * side), corners[row % (side * side)]
        for c in range(channels):
            out[row, c] = bias[c]
        tap = 0
        while tap < size * size:
            found, tap, row0, row1, row2, row3, tap0, tap1, tap2, tap3 = _next_four(
                window, patch, corner, steps, tap, rows
            )
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


@parallel_kernel
def convolve_grad_by_site(x, dy, weight, window, raster_of_z, side, size, parts, dx, dweight, dbias):  # type: ignore[no-untyped-def]
    """Both gradients read the same rows of ``dy``; each part sums over some of the sites.

    The kernel is rotated by 180° on the way in, its gradient on the way out.
    """
    rows, channels = dy.shape
    num_parts, last_tap = len(parts), size * size - 1
    corners, steps = _positions(raster_of_z, side, size)
    taps = np.empty((size * size, channels), x.dtype)
    for tap in range(size * size):
        for c in range(channels):
            taps[tap, c] = weight[c, last_tap - tap]
    for part in prange(num_parts):
        wide_vectors()
        parts[part] = 0
        for row in range(part * rows // num_parts, (part + 1) * rows // num_parts):
            patch, corner = row // (side * side), corners[row % (side * side)]
            for c in range(channels):
                dx[row, c] = 0
                parts[part, size * size, c] += dy[row, c]
            tap = 0
            while tap < size * size:
                found, tap, row0, row1, row2, row3, tap0, tap1, tap2, tap3 = _next_four(
                    window, patch, corner, steps, tap, rows
                )
                if found == 4:
                    for c in range(channels):
                        dx[row, c] += (dy[row0, c] * taps[tap0, c] + dy[row1, c] * taps[tap1, c]) + (
                            dy[row2, c] * taps[tap2, c] + dy[row3, c] * taps[tap3, c]
                        )
                    for c in range(channels):  # two at a time: LLVM adds no overlap checks for more
                        parts[part, tap0, c] += x[row, c] * dy[row0, c]
                        parts[part, tap1, c] += x[row, c] * dy[row1, c]
                    for c in range(channels):
                        parts[part, tap2, c] += x[row, c] * dy[row2, c]
                        parts[part, tap3, c] += x[row, c] * dy[row3, c]
                    continue
                if found > 2:
                    for c in range(channels):
                        dx[row, c] += dy[row1, c] * taps[tap1, c]
                        parts[part, tap1, c] += x[row, c] * dy[row1, c]
                if found > 1:
                    for c in range(channels):
                        dx[row, c] += dy[row2, c] * taps[tap2, c]
                        parts[part, tap2, c] += x[row, c] * dy[row2, c]
                if found > 0:
                    for c in range(channels):
                        dx[row, c] += dy[row3, c] * taps[tap3, c]
                        parts[part, tap3, c] += x[row, c] * dy[row3, c]
    for tap in prange(size * size + 1):
        for part in range(1, num_parts):
            for c in range(channels):
                parts[0, tap, c] += parts[part, tap, c]
    for c in prange(channels):
        for tap in range(size * size):
            dweight[c, last_tap - tap] = parts[0, tap, c]
        dbias[c] = parts[0, size * size, c]


@inlined
def _next_four(window, patch, corner, steps, tap, rows):  # type: ignore[no-untyped-def]
    """The next four taps from ``tap`` on that meet a site: their number, where to continue, their rows and taps.

    If there are fewer than four, they are the last of the rows and taps.
    """
    found = row0 = row1 = row2 = row3 = tap0 = tap1 = tap2 = tap3 = 0
    while tap < len(steps) and found < 4:
        there = window[patch, corner + steps[tap]]
        if there < rows:
            row0, row1, row2, row3 = row1, row2, row3, there
            tap0, tap1, tap2, tap3 = tap1, tap2, tap3, tap
            found += 1
        tap += 1
    return found, tap, row0, row1, row2, row3, tap0, tap1, tap2, tap3


@device_function
def _positions(raster_of_z, side, size):  # type: ignore[no-untyped-def]
    """The first window position of each site of the patch, and the step from there to each tap's."""
    halo_side = side + size - 1
    corners, steps = np.empty(side * side, np.int64), np.empty(size * size, np.int64)
    for z in range(side * side):
        corners[z] = raster_of_z[z] // side * halo_side + raster_of_z[z] % side
    for tap in range(size * size):
        steps[tap] = tap // size * halo_side + tap % size
    return corners, steps

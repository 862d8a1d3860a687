"""Depthwise convolution window by window, for 7×7 kernels and patches of 4×4 sites or more.

A patch and its halo are copied to a buffer, some channels at a time so that it fits the L1 cache. Then a row of the
patch meets a row of the kernel, four sites at a time: 28 products for 17 values read. The gradients to the input and to
the weight read the same window, of the output's gradient, and are computed together.
"""

import numpy as np
from numba import prange, uint64

from fcmae.sparse.backends.numba.runtime import device_function, inlined, parallel_kernel

KERNEL, ABREAST = 7, 4  # the side of the kernel, and the sites of a row that are computed together
# Channels of a window at a time. Unsigned offsets into a flat buffer: otherwise LLVM cannot tell that rows do not
# overlap and that no index is negative, and does not vectorize.
WIDTH = 48
ROW1, ROW2, ROW3, ROW4, ROW5, ROW6, ROW7, ROW8, ROW9 = (np.uint64(WIDTH * i) for i in range(1, 10))
BIAS = np.uint64(WIDTH * KERNEL * KERNEL)  # where its gradient is, after the taps'


@parallel_kernel
def convolve_by_window(x, weight, bias, window, raster_of_z, side, width, out):  # type: ignore[no-untyped-def]
    """One block of a patch's channels at a time."""
    (patches, positions), channels = window.shape, len(weight)
    taps = _blocks_of_taps(weight, width)
    blocks = len(taps)
    for number in prange(patches * blocks):
        patch, block = number // blocks, number % blocks
        first, last = block * width, min(block * width + width, channels)
        seen, sums = np.empty(positions * WIDTH, x.dtype), np.empty(side * side * WIDTH, x.dtype)
        _copy_window(x, window[patch], first, last, seen)
        for place in range(side * side):
            for c in range(last - first):
                sums[uint64(place * WIDTH + c)] = bias[first + c]
        _add_products(seen, taps[block], side, last - first, sums)
        for z in range(side * side):
            row, place = uint64(patch * side * side + z), raster_of_z[z] * WIDTH
            for c in range(last - first):
                out[row, uint64(first + c)] = sums[uint64(place + c)]


@parallel_kernel
def convolve_grad_by_window(x, dy, weight, window, raster_of_z, side, width, parts, dx, dweight, dbias):  # type: ignore[no-untyped-def]
    """Each part sums over some patches. The kernel is rotated by 180° on the way in, its gradient on the way out."""
    (patches, positions), channels = window.shape, len(weight)
    num_parts, blocks, _ = parts.shape
    taps = _blocks_of_taps(weight[:, ::-1], width)
    for number in prange(num_parts * blocks):
        part, block = number // blocks, number % blocks
        first, last = block * width, min(block * width + width, channels)
        seen, sums = np.empty(positions * WIDTH, x.dtype), np.empty(side * side * WIDTH, x.dtype)
        own = np.empty(side * side * WIDTH, x.dtype)
        parts[part, block] = 0
        for patch in range(part * patches // num_parts, (part + 1) * patches // num_parts):
            _copy_window(dy, window[patch], first, last, seen)
            for z in range(side * side):
                row, place = uint64(patch * side * side + z), raster_of_z[z] * WIDTH
                for c in range(last - first):
                    own[uint64(place + c)] = x[row, uint64(first + c)]
                    parts[part, block, BIAS + uint64(c)] += dy[row, uint64(first + c)]
            sums[:] = 0
            _add_products_and_tap_sums(seen, own, taps[block], side, last - first, sums, parts[part, block])
            for z in range(side * side):
                row, place = uint64(patch * side * side + z), raster_of_z[z] * WIDTH
                for c in range(last - first):
                    dx[row, uint64(first + c)] = sums[uint64(place + c)]
    for block in prange(blocks):
        for part in range(1, num_parts):
            for i in range(parts.shape[2]):
                parts[0, block, i] += parts[part, block, i]
        for c in range(block * width, min(block * width + width, channels)):
            for tap in range(KERNEL * KERNEL):
                dweight[c, KERNEL * KERNEL - 1 - tap] = parts[0, block, tap * WIDTH + c - block * width]
            dbias[c] = parts[0, block, KERNEL * KERNEL * WIDTH + c - block * width]


@device_function
def _blocks_of_taps(weight, width):  # type: ignore[no-untyped-def]
    channels, size = weight.shape
    taps = np.empty((-(-channels // width), size * WIDTH), weight.dtype)
    for c in range(channels):
        for tap in range(size):
            taps[c // width, tap * WIDTH + c % width] = weight[c, tap]
    return taps


@device_function
def _copy_window(x, window, first, last, seen):  # type: ignore[no-untyped-def]
    """Channels first to last of a patch and its halo, zero where there is no site."""
    rows = x.shape[0]
    for position in range(len(window)):
        there, start = window[position], position * WIDTH
        if there < rows:
            for c in range(last - first):
                seen[uint64(start + c)] = x[uint64(there), uint64(first + c)]
        else:
            for c in range(last - first):
                seen[uint64(start + c)] = 0


@device_function
def _add_products(seen, taps, side, width, sums):  # type: ignore[no-untyped-def]
    """Kernel times window, added to each site of the patch."""
    for y in range(side):
        for tap_y in range(KERNEL):
            for x in range(0, side, ABREAST):
                at, tap, to = _places(y, tap_y, x, side)
                for channel in range(width):
                    c = uint64(channel)
                    _add_to_four(seen, taps, sums, at + c, tap + c, to + c)


@device_function
def _add_products_and_tap_sums(seen, own, taps, side, width, sums, tap_sums):  # type: ignore[no-untyped-def]
    """Kernel times window, added to each site; and window times the site's own value, added to each tap."""
    for y in range(side):
        for tap_y in range(KERNEL):
            for x in range(0, side, ABREAST):
                at, tap, to = _places(y, tap_y, x, side)
                for channel in range(width):
                    c = uint64(channel)
                    t, o = tap + c, to + c
                    x0, x1, x2, x3, x4, x5, x6, x7, x8, x9 = _add_to_four(seen, taps, sums, at + c, t, o)
                    o0, o1, o2, o3 = own[o], own[o + ROW1], own[o + ROW2], own[o + ROW3]
                    tap_sums[t] += x0 * o0 + x1 * o1 + x2 * o2 + x3 * o3
                    tap_sums[t + ROW1] += x1 * o0 + x2 * o1 + x3 * o2 + x4 * o3
                    tap_sums[t + ROW2] += x2 * o0 + x3 * o1 + x4 * o2 + x5 * o3
                    tap_sums[t + ROW3] += x3 * o0 + x4 * o1 + x5 * o2 + x6 * o3
                    tap_sums[t + ROW4] += x4 * o0 + x5 * o1 + x6 * o2 + x7 * o3
                    tap_sums[t + ROW5] += x5 * o0 + x6 * o1 + x7 * o2 + x8 * o3
                    tap_sums[t + ROW6] += x6 * o0 + x7 * o1 + x8 * o2 + x9 * o3


@inlined
def _places(y, tap_y, x, side):  # type: ignore[no-untyped-def]
    """Where a row of the kernel meets a row of the patch from site x on: in the window, the taps and the patch."""
    at = uint64(((y + tap_y) * (side + KERNEL - 1) + x) * WIDTH)
    return at, uint64(tap_y * KERNEL * WIDTH), uint64((y * side + x) * WIDTH)


@inlined
def _add_to_four(seen, taps, sums, i, t, o):  # type: ignore[no-untyped-def]
    """A row of the kernel times the window, added to four sites; returns the ten values of the window."""
    x0, x1, x2, x3, x4 = seen[i], seen[i + ROW1], seen[i + ROW2], seen[i + ROW3], seen[i + ROW4]
    x5, x6, x7, x8, x9 = seen[i + ROW5], seen[i + ROW6], seen[i + ROW7], seen[i + ROW8], seen[i + ROW9]
    t0, t1, t2, t3 = taps[t], taps[t + ROW1], taps[t + ROW2], taps[t + ROW3]
    t4, t5, t6 = taps[t + ROW4], taps[t + ROW5], taps[t + ROW6]
    sums[o] += x0 * t0 + x1 * t1 + x2 * t2 + x3 * t3 + x4 * t4 + x5 * t5 + x6 * t6
    sums[o + ROW1] += x1 * t0 + x2 * t1 + x3 * t2 + x4 * t3 + x5 * t4 + x6 * t5 + x7 * t6
    sums[o + ROW2] += x2 * t0 + x3 * t1 + x4 * t2 + x5 * t3 + x6 * t4 + x7 * t5 + x8 * t6
    sums[o + ROW3] += x3 * t0 + x4 * t1 + x5 * t2 + x6 * t3 + x7 * t4 + x8 * t5 + x9 * t6
    return x0, x1, x2, x3, x4, x5, x6, x7, x8, x9

"""Triton kernels of the submanifold depthwise convolution: block-sparse over the visible patches, halo by patch.

A site's neighbor at (dy, dx) lies in its own patch or in one near by, so no kernel map of k·k entries a site is
needed: ``slot`` [B, h, w] tells which visible patch a grid cell is (−1: masked), and the place inside the patch is
Z-order arithmetic. Rows and channels are tiled; sums are in float32. One kernel serves s = 8, 4, 2, 1 and any odd k.

Nothing here is imported unless this backend is asked for.
"""

# mypy: ignore-errors
# Triton compiles these functions; they are Python in appearance alone.

import triton
import triton.language as tl


@triton.jit
def _interleave(y, x, BITS: tl.constexpr):
    """(y, x) inside a patch → place in Z-order."""
    z = y * 0
    for bit in tl.static_range(BITS):
        z += (((x >> bit) & 1) << (2 * bit)) + (((y >> bit) & 1) << (2 * bit + 1))
    return z


@triton.jit
def _place(row, patches_ptr, WIDTH: tl.constexpr, K: tl.constexpr, BITS: tl.constexpr, in_range):
    """Row of the site matrix → image, y and x on the grid of sites."""
    patch = row >> (2 * BITS)
    z = row & ((1 << (2 * BITS)) - 1)
    cell = tl.load(patches_ptr + patch, mask=in_range, other=0).to(tl.int32)
    y = (cell // WIDTH) << BITS
    x = (cell % WIDTH) << BITS
    for bit in tl.static_range(BITS):
        x += ((z >> (2 * bit)) & 1) << bit
        y += ((z >> (2 * bit + 1)) & 1) << bit
    return patch // K, y, x


@triton.jit
def _row_at(image, y, x, slot_ptr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, BITS: tl.constexpr, in_range):
    """Row of the site at (y, x) of an image, and whether there is one."""
    inside = in_range & (y >= 0) & (x >= 0) & (y < (HEIGHT << BITS)) & (x < (WIDTH << BITS))
    slot = tl.load(slot_ptr + (image * HEIGHT + (y >> BITS)) * WIDTH + (x >> BITS), mask=inside, other=-1)
    low = (1 << BITS) - 1
    return (slot << (2 * BITS)) + _interleave(y & low, x & low, BITS), inside & (slot >= 0)


@triton.jit
def convolve_kernel(
    x_ptr, weight_ptr, bias_ptr, out_ptr, patches_ptr, slot_ptr, num_rows, channels,
    HAS_BIAS: tl.constexpr, FLIP: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, K: tl.constexpr,
    BITS: tl.constexpr, SIZE: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """out[i] = bias + Σ over taps of weight[tap] · x[neighbor of i at tap]; FLIP turns the kernel round, for dgrad.

    x, out [num_rows, channels]; weight [SIZE·SIZE, channels]; patches [N]; slot [B·HEIGHT·WIDTH].
    """
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    channel = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    is_row, is_channel = row < num_rows, channel < channels
    image, y, x = _place(row, patches_ptr, WIDTH, K, BITS, is_row)
    total = tl.zeros((BLOCK_ROWS, BLOCK_CHANNELS), dtype=tl.float32)
    if HAS_BIAS:
        total += tl.load(bias_ptr + channel, mask=is_channel, other=0).to(tl.float32)[None, :]
    for tap_y in range(SIZE):
        for tap_x in range(SIZE):
            near, is_there = _row_at(
                image, y + tap_y - SIZE // 2, x + tap_x - SIZE // 2, slot_ptr, HEIGHT, WIDTH, BITS, is_row
            )
            tap = tap_y * SIZE + tap_x
            if FLIP:
                tap = SIZE * SIZE - 1 - tap
            w = tl.load(weight_ptr + tap * channels + channel, mask=is_channel, other=0).to(tl.float32)
            there = is_there[:, None] & is_channel[None, :]
            offset = near.to(tl.int64)[:, None] * channels + channel[None, :]
            total += tl.load(x_ptr + offset, mask=there, other=0).to(tl.float32) * w[None, :]
    offset = row.to(tl.int64)[:, None] * channels + channel[None, :]
    tl.store(out_ptr + offset, total.to(out_ptr.dtype.element_ty), mask=is_row[:, None] & is_channel[None, :])


@triton.jit
def wgrad_kernel(
    x_ptr, dy_ptr, out_ptr, patches_ptr, slot_ptr, num_rows, channels, blocks_per_program,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, K: tl.constexpr, BITS: tl.constexpr, SIZE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """Share of one chunk of rows in the gradient to one tap of the kernel: Σ over its rows of dy · x[neighbor at tap].

    out float32 [chunks, SIZE·SIZE, channels], to be summed over chunks: no atomics, so the same numbers every time.
    """
    chunk, tap = tl.program_id(0), tl.program_id(2)
    channel = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    is_channel = channel < channels
    total = tl.zeros((BLOCK_ROWS, BLOCK_CHANNELS), dtype=tl.float32)
    for block in range(blocks_per_program):
        row = (chunk * blocks_per_program + block) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        is_row = row < num_rows
        image, y, x = _place(row, patches_ptr, WIDTH, K, BITS, is_row)
        near, is_there = _row_at(
            image, y + tap // SIZE - SIZE // 2, x + tap % SIZE - SIZE // 2, slot_ptr, HEIGHT, WIDTH, BITS, is_row
        )
        there = is_there[:, None] & is_channel[None, :]
        dy = tl.load(dy_ptr + row.to(tl.int64)[:, None] * channels + channel[None, :], mask=there, other=0)
        x_near = tl.load(x_ptr + near.to(tl.int64)[:, None] * channels + channel[None, :], mask=there, other=0)
        total += dy.to(tl.float32) * x_near.to(tl.float32)
    offset = (chunk * SIZE * SIZE + tap).to(tl.int64) * channels + channel
    tl.store(out_ptr + offset, tl.sum(total, axis=0), mask=is_channel)

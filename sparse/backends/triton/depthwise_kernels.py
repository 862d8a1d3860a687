"""Triton kernels of the submanifold depthwise convolution, block-sparse over the visible patches.

All of them know a patch by its neighbors: ``table`` int32 [N, D·D] names the visible patch at each offset (−1: none),
D = 2·⌈(SIZE // 2) / S⌉ + 1. So one index serves a whole row of a patch, and rows within a patch are constants.

    neighbors_kernel   makes the table, and the same without its gaps
    slide_kernel       forward and dgrad: a patch's columns stay in registers, a row of its window slides past them
    near_kernel        the same for small patches (S = 1, 2), whose window is mostly masked: visits only what is visible
    wgrad_kernel       all taps of a channel stay in registers

Channels are the fastest axis of a tile. CHANNELS is a constant, so that addresses are constants, too. Row numbers are
int32, offsets int64. Sums are in float32.
"""

# mypy: ignore-errors
# Triton compiles these functions; they are Python in appearance alone.

import triton
import triton.language as tl


@triton.jit
def _spread(i):
    """Bits of a site's x → their places in Z-order; those of y lie one to the left. For patches of up to 32 sites."""
    return (i & 1) | ((i & 2) << 1) | ((i & 4) << 2) | ((i & 8) << 3) | ((i & 16) << 4)


@triton.constexpr_function
def _patch_of(wx, s, half):
    """Column of a window, as wide as ``half`` to the left of a patch → which column of neighbors it lies in."""
    return (wx + -half % s) // s


@triton.constexpr_function
def _place_of(wx, s, half):
    """Column of a window → its column within a patch, as a place in Z-order."""
    x = (wx - half) % s
    return sum((x >> bit & 1) << 2 * bit for bit in range(s.bit_length()))


@triton.jit
def _channels(CHANNELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr):
    """This program's channels, and which of them there are: a constant where the blocks come out even."""
    channel = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    if CHANNELS % BLOCK_CHANNELS == 0:
        return channel, tl.full((BLOCK_CHANNELS,), True, tl.int1)
    return channel, channel < CHANNELS


@triton.jit
def _window_row(x_ptr, table_ptr, patch, wanted, ry, channel, CHANNELS: tl.constexpr, S: tl.constexpr, D: tl.constexpr):
    """A row of the window in each of the D patches that it crosses: whether the patch is there, and where it starts.

    ``ry`` counts from the first row of the topmost neighbor; of what is not ``wanted`` no patch is there.
    """
    entry = table_ptr + patch.to(tl.int64) * (D * D) + (ry // S) * D
    in_patch = _spread(ry % S) * 2
    lane = x_ptr + channel[None, :]  # first, so that a row's number times its width is added in one instruction
    there, starts = (), ()
    for j in tl.static_range(D):
        slot = tl.load(entry + j)
        there = there + ((wanted & (slot >= 0))[:, None],)
        starts = starts + (lane + (slot * (S * S) + in_patch).to(tl.int64)[:, None] * CHANNELS,)
    return there, starts


@triton.jit(do_not_specialize=["num_patches"])
def neighbors_kernel(
    patches_ptr, slot_ptr, table_ptr, near_ptr, count_ptr, num_patches,
    K: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """One program: P patches. BLOCK is a power of two, at least D·D.

    patches int32 [N], places in the grid; slot int32 [B, HEIGHT, WIDTH], patch at each place. table int32 [N, D·D];
    count int32 [N], how many neighbors there are; near int32 [N, D·D, 2], patch and offset of each, in table's order.
    """
    patch = tl.program_id(0) * P + tl.arange(0, P)
    place = tl.arange(0, BLOCK)
    is_patch = patch < num_patches
    cell = tl.load(patches_ptr + patch, mask=is_patch, other=0)
    y = (cell // WIDTH)[:, None] + (place // D - D // 2)[None, :]
    x = (cell % WIDTH)[:, None] + (place % D - D // 2)[None, :]
    there = is_patch[:, None] & (place < D * D)[None, :]
    inside = there & (y >= 0) & (y < HEIGHT) & (x >= 0) & (x < WIDTH)
    slot = tl.load(slot_ptr + ((patch // K)[:, None] * HEIGHT + y) * WIDTH + x, mask=inside, other=-1)
    visible = (slot >= 0).to(tl.int32)
    entry = patch.to(tl.int64)[:, None] * (D * D)
    tl.store(table_ptr + entry + place[None, :], slot, mask=there)
    number = tl.cumsum(visible, axis=1) - visible
    tl.store(near_ptr + (entry + number) * 2, slot, mask=slot >= 0)
    tl.store(near_ptr + (entry + number) * 2 + 1, place[None, :] + slot * 0, mask=slot >= 0)
    tl.store(count_ptr + patch, tl.sum(visible, axis=1), mask=is_patch)


@triton.jit(do_not_specialize=["num_patches"])
def slide_kernel(
    x_ptr, taps_ptr, bias_ptr, out_ptr, table_ptr, num_patches,
    HAS_BIAS: tl.constexpr, FLIP: tl.constexpr, CHANNELS: tl.constexpr, S: tl.constexpr, SIZE: tl.constexpr,
    P: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """out[i] = bias + Σ over taps of taps[tap] · x[neighbor of i at tap]; FLIP turns the kernel round, for dgrad.

    One program: P patches × BLOCK_CHANNELS channels, the S rows of a patch side by side.
    x, out [N·S·S, CHANNELS]; taps float32 [SIZE·SIZE, CHANNELS]; bias float32 [CHANNELS].
    """
    HALF: tl.constexpr = SIZE // 2
    R: tl.constexpr = (HALF + S - 1) // S  # patches that the window reaches to either side
    D: tl.constexpr = 2 * R + 1
    row = tl.arange(0, P * S)
    patch = tl.program_id(0) * P + row // S
    oy = row % S
    channel, is_channel = _channels(CHANNELS, BLOCK_CHANNELS)
    is_patch = patch < num_patches
    total = ()
    for _ in tl.static_range(S):
        if HAS_BIAS:
            bias = tl.load(bias_ptr + channel, mask=is_channel, other=0)[None, :]
        else:
            bias = 0.0
        total = total + (tl.zeros((P * S, BLOCK_CHANNELS), tl.float32) + bias,)
    looked_up = tl.minimum(patch, num_patches - 1)
    wanted = tl.full((P * S,), True, tl.int1)
    for ky in range(SIZE):
        ry = oy + ky + (R * S - HALF)  # row of the window, counted from the first row of the topmost neighbor
        there, starts = _window_row(x_ptr, table_ptr, looked_up, wanted, ry, channel, CHANNELS, S, D)
        w = ()
        for kx in tl.static_range(SIZE):
            tap = ky * SIZE + kx
            if FLIP:
                tap = SIZE * SIZE - 1 - tap
            at = tl.broadcast_to(taps_ptr + tap * CHANNELS + channel[None, :], (P * S, BLOCK_CHANNELS))
            w = w + (tl.load(at, mask=is_channel[None, :], other=0),)
        for wx in tl.static_range(S + SIZE - 1):
            value = tl.load(
                starts[_patch_of(wx, S, HALF)] + _place_of(wx, S, HALF) * CHANNELS,
                mask=there[_patch_of(wx, S, HALF)] & is_channel[None, :], other=0,
            ).to(tl.float32)  # fmt: skip
            new = ()
            for ox in tl.static_range(S):
                if wx >= ox and wx - ox < SIZE:
                    new = new + (total[ox] + value * w[wx - ox],)
                else:
                    new = new + (total[ox],)
            total = new
    is_out = is_patch[:, None] & is_channel[None, :]
    first = (patch * (S * S) + _spread(oy) * 2).to(tl.int64) * CHANNELS
    for ox in tl.static_range(S):
        place = first[:, None] + (_place_of(ox, S, 0) * CHANNELS + channel)[None, :]
        tl.store(out_ptr + place, total[ox].to(out_ptr.dtype.element_ty), mask=is_out)


@triton.jit(do_not_specialize=["num_patches"])
def near_kernel(
    x_ptr, taps_ptr, bias_ptr, out_ptr, near_ptr, count_ptr, num_patches,
    HAS_BIAS: tl.constexpr, FLIP: tl.constexpr, CHANNELS: tl.constexpr, S: tl.constexpr, SIZE: tl.constexpr,
    P: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """The same as :func:`slide_kernel`. One program: P patches × BLOCK_CHANNELS channels, neighbor by neighbor."""
    HALF: tl.constexpr = SIZE // 2
    R: tl.constexpr = (HALF + S - 1) // S
    D: tl.constexpr = 2 * R + 1
    patch = tl.program_id(0) * P + tl.arange(0, P)
    channel, is_channel = _channels(CHANNELS, BLOCK_CHANNELS)
    is_patch = patch < num_patches
    total = ()
    for _ in tl.static_range(S * S):
        if HAS_BIAS:
            bias = tl.load(bias_ptr + channel, mask=is_channel, other=0)[None, :]
        else:
            bias = 0.0
        total = total + (tl.zeros((P, BLOCK_CHANNELS), tl.float32) + bias,)
    count = tl.load(count_ptr + patch, mask=is_patch, other=0)
    entry = near_ptr + patch.to(tl.int64) * (2 * D * D)
    slot = tl.load(entry, mask=count > 0, other=0)
    place = tl.load(entry + 1, mask=count > 0, other=0)
    for i in range(tl.max(count, axis=0)):
        there = i < count
        more = i + 1 < count  # the next neighbor is looked up while this one is computed
        next_slot = tl.load(entry + 2 * i + 2, mask=more, other=0)
        next_place = tl.load(entry + 2 * i + 3, mask=more, other=0)
        start = x_ptr + (slot * (S * S)).to(tl.int64)[:, None] * CHANNELS + channel[None, :]
        is_value = there[:, None] & is_channel[None, :]
        x = ()
        for z in tl.static_range(S * S):
            x = x + (tl.load(start + z * CHANNELS, mask=is_value, other=0).to(tl.float32),)
        ty, tx = (place // D - R) * S + HALF, (place % D - R) * S + HALF  # tap of an output's own place in the neighbor
        for dy in tl.static_range(1 - S, S):
            for dx in tl.static_range(1 - S, S):
                tap_y, tap_x = ty + dy, tx + dx
                if R * S + S - 1 > HALF:
                    is_tap = there & (tap_y >= 0) & (tap_y < SIZE) & (tap_x >= 0) & (tap_x < SIZE)
                else:
                    is_tap = there
                tap = tap_y * SIZE + tap_x
                if FLIP:
                    tap = SIZE * SIZE - 1 - tap
                at = taps_ptr + (tap * CHANNELS)[:, None] + channel[None, :]
                w = tl.load(at, mask=is_tap[:, None] & is_channel[None, :], other=0)
                new = ()
                for o in tl.static_range(S * S):  # S ≤ 2: place o in Z-order is (o // S, o % S)
                    if o // S + dy >= 0 and o // S + dy < S and o % S + dx >= 0 and o % S + dx < S:
                        new = new + (total[o] + w * x[(o // S + dy) * S + o % S + dx],)
                    else:
                        new = new + (total[o],)
                total = new
        slot, place = next_slot, next_place
    is_out = is_patch[:, None] & is_channel[None, :]
    first = (patch * (S * S)).to(tl.int64)[:, None] * CHANNELS + channel[None, :]
    for o in tl.static_range(S * S):
        tl.store(out_ptr + first + o * CHANNELS, total[o].to(out_ptr.dtype.element_ty), mask=is_out)


@triton.jit(do_not_specialize=["num_patches", "per_program"])
def wgrad_kernel(
    x_ptr, dy_ptr, out_ptr, table_ptr, num_patches, per_program,
    CHANNELS: tl.constexpr, S: tl.constexpr, SIZE: tl.constexpr, P: tl.constexpr, ROWS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """Share of one chunk of patches in the gradients: of each tap, Σ over their rows of dy · x[neighbor]; and Σ dy.

    out float32 [chunks, SIZE·SIZE + 1, CHANNELS], to be summed over chunks: no atomics, so the same numbers every time.
    One program: ``per_program`` times P patches × BLOCK_CHANNELS channels, the rows of taps side by side: they read the
    same features within a short time, and with P = 1 nothing is summed across threads. ROWS is a power of two above
    SIZE: the first row without taps multiplies dy by 1, which is the gradient to the bias.
    """
    HALF: tl.constexpr = SIZE // 2
    R: tl.constexpr = (HALF + S - 1) // S
    D: tl.constexpr = 2 * R + 1
    channel, is_channel = _channels(CHANNELS, BLOCK_CHANNELS)
    ky = tl.arange(0, P * ROWS) % ROWS
    is_tap, tap_y = ky < SIZE, tl.minimum(ky, SIZE - 1)
    missing = tl.where(ky == SIZE, 1.0, 0.0).to(x_ptr.dtype.element_ty)[:, None]
    lane = dy_ptr + channel[None, :]
    total = ()
    for _ in tl.static_range(SIZE):
        total = total + (tl.zeros((P * ROWS, BLOCK_CHANNELS), tl.float32),)
    for step in range(per_program * S):
        oy = step % S
        patch = (tl.program_id(0) * per_program + step // S) * P + tl.arange(0, P * ROWS) // ROWS
        is_value = (patch < num_patches)[:, None] & is_channel[None, :]
        start = lane + (patch * (S * S) + _spread(oy) * 2).to(tl.int64)[:, None] * CHANNELS
        dy = ()
        for ox in tl.static_range(S):
            value = tl.load(start + _place_of(ox, S, 0) * CHANNELS, mask=is_value, other=0)
            dy = dy + (value.to(tl.float32),)
        looked_up = tl.minimum(patch, num_patches - 1)
        ry = oy + tap_y + (R * S - HALF)
        there, starts = _window_row(x_ptr, table_ptr, looked_up, is_tap, ry, channel, CHANNELS, S, D)
        for wx in tl.static_range(S + SIZE - 1):
            value = tl.load(
                starts[_patch_of(wx, S, HALF)] + _place_of(wx, S, HALF) * CHANNELS,
                mask=there[_patch_of(wx, S, HALF)] & is_channel[None, :], other=missing,
            ).to(tl.float32)  # fmt: skip
            new = ()
            for kx in tl.static_range(SIZE):
                if wx >= kx and wx - kx < S:
                    new = new + (total[kx] + value * dy[wx - kx],)
                else:
                    new = new + (total[kx],)
            total = new
    row = tl.arange(0, ROWS)
    for kx in tl.static_range(SIZE):
        tap = tl.program_id(0).to(tl.int64) * (SIZE * SIZE + 1) + row * SIZE + kx
        is_out = (row < (SIZE + 1 if kx == 0 else SIZE))[:, None] & is_channel[None, :]
        if P > 1:
            out = tl.sum(tl.reshape(total[kx], (P, ROWS, BLOCK_CHANNELS)), axis=0)
        else:
            out = total[kx]
        tl.store(out_ptr + tap[:, None] * CHANNELS + channel[None, :], out, mask=is_out)

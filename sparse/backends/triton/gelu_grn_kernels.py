"""Triton kernels between the products of the MLP: GELU and GRN, and their gradients, image by image.

``h`` is the first Linear's product without its bias, [B·M, H], the M sites of an image together; g = GELU(h + bias).
GELU is recomputed in the backward pass, not kept. A tile is one part of one image's sites × BLOCK channels; sums over
an image's sites are left as one float32 [H] for each part, and are added in the order of the parts: no atomics, so the
same numbers every time. GRN: y = g · a + β, a = 1 + γ · n, n = norm / m, norm = ‖g‖₂, m = mean of norm + eps.

    gelu_kernel        g, Σ g²                     reads h, writes g
    scale_kernel       norm and a of an image      small
    grn_kernel         y = g · a + β               reads g, writes y
    grn_sums_kernel    Σ dy · g and Σ dy           reads dy and h
    through_kernel     GRN's share in the gradient small
    gelu_grad_kernel   dh, Σ dh                    reads dy and h, writes dh
"""

# mypy: ignore-errors
# Triton compiles these functions; they are Python in appearance alone.

import triton
import triton.language as tl


@triton.jit
def _normal(x):
    """Φ(x) and its density, from one exponential: formula 7.1.26 of Abramowitz and Stegun, absolute error 1.5e-7."""
    power = tl.exp2(x * x * -0.7213475204444817)  # exp(−x²/2); the constant is 1 / (2 ln 2)
    q = tl.fdiv(1.0, 1.0 + 0.23164189 * tl.abs(x))
    tail = 0.127414796 + q * (-0.142248368 + q * (0.71070687 + q * (-0.726576015 + q * 0.530702715)))
    tail = power * q * tail
    return tl.where(x < 0, tail, 1.0 - tail), power * 0.3989422804014327


@triton.jit
def _gelu(x):
    below, _ = _normal(x)
    return x * below


@triton.jit
def _tile(sites, HIDDEN: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, STEPS: tl.constexpr):
    """Of this program: image, part, channels, which there are, offset of its first value. Grid (parts, blocks, B)."""
    part, image = tl.program_id(0), tl.program_id(2)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    site = part * (ROWS * STEPS) + tl.arange(0, ROWS)
    first = (image.to(tl.int64) * sites + site)[:, None] * HIDDEN + channel[None, :]
    return image, part, channel, channel < HIDDEN, site, first


@triton.jit(do_not_specialize=["sites"])
def gelu_kernel(
    h_ptr, bias_ptr, g_ptr, squares_ptr, sites,
    HIDDEN: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """squares float32 [B, parts, H]. The norm is of g as it is written, rounded to its type."""
    image, part, channel, is_channel, site, at = _tile(sites, HIDDEN, BLOCK, ROWS, STEPS)
    bias = tl.load(bias_ptr + channel, mask=is_channel, other=0).to(tl.float32)[None, :]
    squares = tl.zeros((ROWS, BLOCK), tl.float32)
    for step in range(STEPS):
        there = (site + step * ROWS < sites)[:, None] & is_channel[None, :]
        h = tl.load(h_ptr + at, mask=there, other=0).to(tl.float32)
        g = _gelu(h + bias).to(g_ptr.dtype.element_ty)
        tl.store(g_ptr + at, g, mask=there)
        wide = tl.where(there, g.to(tl.float32), 0.0)
        squares += wide * wide
        at += ROWS * HIDDEN
    place = (image * tl.num_programs(0) + part).to(tl.int64) * HIDDEN + channel
    tl.store(squares_ptr + place, tl.sum(squares, axis=0), mask=is_channel)


@triton.jit
def _sum_parts(ptr, image, parts, channel, HIDDEN: tl.constexpr, BLOCK: tl.constexpr):
    """Σ over the parts of an image, float32 [BLOCK], in their order."""
    total = tl.zeros((BLOCK,), tl.float32)
    for part in range(parts):
        place = (image * parts + part).to(tl.int64) * HIDDEN + channel
        total += tl.load(ptr + place, mask=channel < HIDDEN, other=0)
    return total


@triton.jit(do_not_specialize=["parts"])
def scale_kernel(
    squares_ptr, gamma_ptr, norm_ptr, scale_ptr, parts, eps, HIDDEN: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """One program: an image. norm, scale float32 [B, H]; BLOCK is a power of two, at least HIDDEN."""
    image, channel = tl.program_id(0), tl.arange(0, BLOCK)
    is_channel = channel < HIDDEN
    norm = tl.sqrt(_sum_parts(squares_ptr, image, parts, channel, HIDDEN, BLOCK))
    mean = tl.sum(norm, axis=0) / HIDDEN + eps
    gamma = tl.load(gamma_ptr + channel, mask=is_channel, other=0).to(tl.float32)
    tl.store(norm_ptr + image * HIDDEN + channel, norm, mask=is_channel)
    tl.store(scale_ptr + image * HIDDEN + channel, 1.0 + gamma * (norm / mean), mask=is_channel)


@triton.jit(do_not_specialize=["sites"])
def grn_kernel(
    y_ptr, scale_ptr, beta_ptr, sites,
    HIDDEN: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """y = g · scale + β, written over g."""
    image, part, channel, is_channel, site, at = _tile(sites, HIDDEN, BLOCK, ROWS, STEPS)
    scale = tl.load(scale_ptr + image * HIDDEN + channel, mask=is_channel, other=0)[None, :]
    beta = tl.load(beta_ptr + channel, mask=is_channel, other=0).to(tl.float32)[None, :]
    for step in range(STEPS):
        there = (site + step * ROWS < sites)[:, None] & is_channel[None, :]
        g = tl.load(y_ptr + at, mask=there, other=0).to(tl.float32)
        tl.store(y_ptr + at, (g * scale + beta).to(y_ptr.dtype.element_ty), mask=there)
        at += ROWS * HIDDEN


@triton.jit(do_not_specialize=["sites"])
def grn_sums_kernel(
    dy_ptr, h_ptr, bias_ptr, dy_g_ptr, dy_sum_ptr, sites,
    HIDDEN: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """dy_g, dy_sum float32 [B, parts, H]: Σ dy · g and Σ dy over the sites of a part."""
    image, part, channel, is_channel, site, at = _tile(sites, HIDDEN, BLOCK, ROWS, STEPS)
    bias = tl.load(bias_ptr + channel, mask=is_channel, other=0).to(tl.float32)[None, :]
    products, total = tl.zeros((ROWS, BLOCK), tl.float32), tl.zeros((ROWS, BLOCK), tl.float32)
    for step in range(STEPS):
        there = (site + step * ROWS < sites)[:, None] & is_channel[None, :]
        h = tl.load(h_ptr + at, mask=there, other=0).to(tl.float32)
        dy = tl.load(dy_ptr + at, mask=there, other=0).to(tl.float32)
        products += dy * _gelu(h + bias)
        total += dy
        at += ROWS * HIDDEN
    place = (image * tl.num_programs(0) + part).to(tl.int64) * HIDDEN + channel
    tl.store(dy_g_ptr + place, tl.sum(products, axis=0), mask=is_channel)
    tl.store(dy_sum_ptr + place, tl.sum(total, axis=0), mask=is_channel)


@triton.jit(do_not_specialize=["parts", "out_parts"])
def through_kernel(
    dy_g_ptr, gamma_ptr, norm_ptr, scale_ptr, through_ptr, dgamma_ptr, parts, out_parts, eps,
    HIDDEN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: an image. dg = scale · dy + through · g; scale and through are float32 [B, H].

    dgamma float32 [B, out_parts, H]: this image's dγ as the first part and zeros as the others, to be summed with what
    the other kernels leave for each part.
    n = norm/m, so d_norm = dn/m − mean over channels of (dn · n/m); and d‖g‖/dg = g/‖g‖, taken as 0 at ‖g‖ = 0.
    """
    image, channel = tl.program_id(0), tl.arange(0, BLOCK)
    is_channel = channel < HIDDEN
    norm = tl.load(norm_ptr + image * HIDDEN + channel, mask=is_channel, other=0)
    gamma = tl.load(gamma_ptr + channel, mask=is_channel, other=0).to(tl.float32)
    mean = tl.sum(norm, axis=0) / HIDDEN + eps
    dy_g = _sum_parts(dy_g_ptr, image, parts, channel, HIDDEN, BLOCK)
    normed = norm / mean
    dgamma = dy_g * normed
    d_norm = (gamma * dy_g - tl.sum(gamma * dgamma, axis=0) / HIDDEN) / mean
    through = tl.where(norm > 0, d_norm / tl.where(norm > 0, norm, 1.0), 0.0)
    at = image * HIDDEN + channel
    tl.store(scale_ptr + at, 1.0 + gamma * normed, mask=is_channel)
    tl.store(through_ptr + at, through, mask=is_channel)
    for part in range(out_parts):
        place = (image * out_parts + part).to(tl.int64) * HIDDEN + channel
        tl.store(dgamma_ptr + place, tl.where(part == 0, dgamma, 0.0), mask=is_channel)


@triton.jit(do_not_specialize=["sites"])
def gelu_grad_kernel(
    dy_ptr, h_ptr, bias_ptr, scale_ptr, through_ptr, dh_ptr, dh_sum_ptr, sites,
    SCALED: tl.constexpr, HIDDEN: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """dh = (scale · dy + through · g) · GELU′; SCALED: dy is multiplied already. dh_sum float32 [B, parts, H]."""
    image, part, channel, is_channel, site, at = _tile(sites, HIDDEN, BLOCK, ROWS, STEPS)
    bias = tl.load(bias_ptr + channel, mask=is_channel, other=0).to(tl.float32)[None, :]
    through = tl.load(through_ptr + image * HIDDEN + channel, mask=is_channel, other=0)[None, :]
    scale = tl.load(scale_ptr + image * HIDDEN + channel, mask=is_channel, other=0)[None, :]
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    for step in range(STEPS):
        there = (site + step * ROWS < sites)[:, None] & is_channel[None, :]
        x = tl.load(h_ptr + at, mask=there, other=0).to(tl.float32) + bias
        grad = tl.load(dy_ptr + at, mask=there, other=0).to(tl.float32)
        if not SCALED:
            grad *= scale
        below, density = _normal(x)
        grad = (grad + x * below * through) * (below + x * density)
        tl.store(dh_ptr + at, grad.to(dh_ptr.dtype.element_ty), mask=there)
        total += tl.where(there, grad, 0.0)
        at += ROWS * HIDDEN
    place = (image * tl.num_programs(0) + part).to(tl.int64) * HIDDEN + channel
    tl.store(dh_sum_ptr + place, tl.sum(total, axis=0), mask=is_channel)

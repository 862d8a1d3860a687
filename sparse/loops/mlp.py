"""The passes over the wide tensor of Linear → GELU → GRN → Linear, between its matrix products.

``h`` is the first Linear's product without its bias, which is added in passing; GELU is computed again rather than read
where both are as fast. Sums over an image's sites come as [B, parts, H], to be added up.
"""

import math

import numpy as np
from numba import prange, types
from numba.extending import overload
from torch import Tensor

from fcmae.sparse.loops.runtime import FAST_MATH, compiled, run

SITES_PER_PART = 128


def gelu_and_squares(h_BMH: Tensor, bias_H: Tensor) -> tuple[Tensor, Tensor]:
    """g = GELU(h + bias), and the sums of g² over each image's sites, [B, 1, H]."""
    g, squares = h_BMH.new_empty(h_BMH.shape), _parts_like(h_BMH)
    run(_gelu_and_squares, h_BMH, bias_H, g, squares)
    return g, squares.sum(1, keepdim=True)


def scale_and_shift_(x_BMH: Tensor, scale_B1H: Tensor, shift_H: Tensor) -> Tensor:
    """x · scale + shift, in place."""
    run(_scale_and_shift, x_BMH, scale_B1H, shift_H)
    return x_BMH


def sums_with_gelu(dy_BMH: Tensor, h_BMH: Tensor, bias_H: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of dy · g over each image's sites, [B, 1, H], and those of dy over all, [H]."""
    products, plain = _parts_like(h_BMH), _parts_like(h_BMH)
    run(_sums_with_gelu, dy_BMH, h_BMH, bias_H, products, plain)
    return products.sum(1, keepdim=True), plain.sum((0, 1))


def gelu_grad_(
    dy_BMH: Tensor, scale_B1H: Tensor, factor_B1H: Tensor, h_BMH: Tensor, bias_H: Tensor
) -> tuple[Tensor, Tensor]:
    """dh = (dy · scale + g · factor) · GELU'(h + bias), written over dy, and its sums over all sites, [H]."""
    sums = _parts_like(h_BMH)
    run(_gelu_grad, dy_BMH, scale_B1H, factor_B1H, h_BMH, bias_H, sums)
    return dy_BMH, sums.sum((0, 1))


def _parts_like(h_BMH: Tensor) -> Tensor:
    batch, sites, hidden = h_BMH.shape
    return h_BMH.new_zeros(batch, -(-sites // SITES_PER_PART), hidden)


# Φ and its density φ in float32, from one exponential: φ(x) = 2^(−t)/√2π with t = x²/(2 ln 2), Φ by formula 7.1.26 of
# Abramowitz and Stegun, absolute error 1.5e-7; the library's GELU takes the same one. The powers of two are made of
# bits, for LLVM vectorises no call of exp.
_ERFC = [np.float32(a / 2) for a in (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)]
_A1, _A2, _A3, _A4, _A5 = _ERFC
_P = np.float32(0.3275911 * math.sqrt(0.5))
_TO_POWER_OF_TWO = np.float32(0.5 / math.log(2))
_NO_POWER = np.float32(127)  # the bits of 2⁻¹²⁷, made as below, are those of 0
_E1, _E2, _E3, _E4, _E5, _E6 = (np.float32((-math.log(2)) ** n / math.factorial(n)) for n in range(1, 7))
_DENSITY_AT_0 = np.float32(1 / math.sqrt(2 * math.pi))
_HALF, _ONE = np.float32(0.5), np.float32(1)
_EXPONENT_BIAS, _MANTISSA_BITS = np.int32(127), np.int32(23)


def _normal(x):  # type: ignore[no-untyped-def]
    """Φ(x) and φ(x)."""
    return 0.5 * math.erfc(-x * math.sqrt(0.5)), math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


@overload(_normal, jit_options={"fastmath": FAST_MATH, "error_model": "numpy"})
def _compile_normal(x):  # type: ignore[no-untyped-def]
    if x != types.float32:
        return _normal

    def in_float32(x):  # type: ignore[no-untyped-def]
        t = min(x * x * _TO_POWER_OF_TWO, _NO_POWER)
        whole = np.int32(t + _HALF)
        r = t - np.float32(whole)
        power = _ONE + r * (_E1 + r * (_E2 + r * (_E3 + r * (_E4 + r * (_E5 + r * _E6)))))
        power *= np.int32((_EXPONENT_BIAS - whole) << _MANTISSA_BITS).view(np.float32)
        q = _ONE / (_ONE + _P * abs(x))
        tail = power * q * (_A1 + q * (_A2 + q * (_A3 + q * (_A4 + q * _A5))))
        return (tail if x < 0 else _ONE - tail), power * _DENSITY_AT_0

    return in_float32


@compiled
def _gelu_and_squares(h, bias, g, squares):  # type: ignore[no-untyped-def]
    (_, sites, hidden), per_image = h.shape, squares.shape[1]
    for number in prange(squares.shape[0] * per_image):
        image, part = number // per_image, number % per_image
        for site in range(part * sites // per_image, (part + 1) * sites // per_image):
            for c in range(hidden):
                x = h[image, site, c] + bias[c]
                below, _ = _normal(x)
                g[image, site, c] = x * below
                squares[image, part, c] += x * below * (x * below)


@compiled
def _scale_and_shift(x, scale, shift):  # type: ignore[no-untyped-def]
    batch, sites, hidden = x.shape
    for row in prange(batch * sites):
        image, site = row // sites, row % sites
        for c in range(hidden):
            x[image, site, c] = x[image, site, c] * scale[image, 0, c] + shift[c]


@compiled
def _sums_with_gelu(dy, h, bias, products, plain):  # type: ignore[no-untyped-def]
    (_, sites, hidden), per_image = h.shape, products.shape[1]
    for number in prange(products.shape[0] * per_image):
        image, part = number // per_image, number % per_image
        for site in range(part * sites // per_image, (part + 1) * sites // per_image):
            for c in range(hidden):
                x = h[image, site, c] + bias[c]
                below, _ = _normal(x)
                products[image, part, c] += dy[image, site, c] * (x * below)
                plain[image, part, c] += dy[image, site, c]


@compiled
def _gelu_grad(dy, scale, factor, h, bias, sums):  # type: ignore[no-untyped-def]
    (_, sites, hidden), per_image = h.shape, sums.shape[1]
    for number in prange(sums.shape[0] * per_image):
        image, part = number // per_image, number % per_image
        for site in range(part * sites // per_image, (part + 1) * sites // per_image):
            for c in range(hidden):
                x = h[image, site, c] + bias[c]
                below, density = _normal(x)
                grad = dy[image, site, c] * scale[image, 0, c] + x * below * factor[image, 0, c]
                grad *= below + x * density
                dy[image, site, c] = grad
                sums[image, part, c] += grad

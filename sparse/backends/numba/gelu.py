"""GELU, and its gradient, after a matrix product without its bias: one pass each way.

``h`` is the product, to which the bias is added here. GELU is recomputed, not kept.
"""

import math

import numpy as np
from numba import prange, types
from numba.extending import overload
from torch import Tensor

from fcmae.sparse.backends.numba.runtime import FAST_MATH, launch, parallel_kernel, wide_vectors

ROWS_PER_PART = 128  # of the sums over all rows


def gelu(h_NH: Tensor, bias: Tensor) -> Tensor:
    """GELU(h + bias)."""
    y_NH = h_NH.new_empty(h_NH.shape)
    launch(_gelu, h_NH, bias, y_NH)
    return y_NH


def gelu_grad_(dy_NH: Tensor, h_NH: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients to h, written over ``dy``, and to the bias.

    Raises:
        ValueError: ``dy`` is not contiguous.
    """
    if not dy_NH.is_contiguous():
        raise ValueError("dy is overwritten, so it must be contiguous")
    db = dy_NH.new_empty(len(bias))
    launch(_gelu_grad, dy_NH, h_NH, bias, db)
    return dy_NH, db


# Φ and its density φ in float32, from one exponential: φ(x) = 2^(−t)/√2π with t = x²/(2 ln 2), Φ by formula 7.1.26 of
# Abramowitz and Stegun, absolute error 1.5e-7, as in PyTorch's GELU. Powers of two are made of bits, because LLVM does
# not vectorize calls of exp.
_ERFC = [np.float32(a / 2) for a in (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)]
_A1, _A2, _A3, _A4, _A5 = _ERFC
_P = np.float32(0.3275911 * math.sqrt(0.5))
_TO_POWER_OF_TWO = np.float32(0.5 / math.log(2))
_NO_POWER = np.float32(127)  # the bits of 2⁻¹²⁷, made as below, are those of 0
_E1, _E2, _E3, _E4, _E5, _E6 = (np.float32((-math.log(2)) ** n / math.factorial(n)) for n in range(1, 7))
_DENSITY_AT_0 = np.float32(1 / math.sqrt(2 * math.pi))
_HALF, _ONE = np.float32(0.5), np.float32(1)
_EXPONENT_BIAS, _MANTISSA_BITS = np.int32(127), np.int32(23)


def normal(x):  # type: ignore[no-untyped-def]
    """Φ(x) and φ(x)."""
    return 0.5 * math.erfc(-x * math.sqrt(0.5)), math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


@overload(normal, jit_options={"fastmath": FAST_MATH, "error_model": "numpy"})
def _compile_normal(x):  # type: ignore[no-untyped-def]
    if x != types.float32:
        return normal

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


@parallel_kernel
def _gelu(h, bias, y):  # type: ignore[no-untyped-def]
    rows, hidden = h.shape
    parts = -(-rows // ROWS_PER_PART)
    for part in prange(parts):
        wide_vectors()
        for row in range(part * rows // parts, (part + 1) * rows // parts):
            for c in range(hidden):
                x = h[row, c] + bias[c]
                below, _ = normal(x)
                y[row, c] = x * below


@parallel_kernel
def _gelu_grad(dy, h, bias, db):  # type: ignore[no-untyped-def]
    rows, hidden = h.shape
    parts = -(-rows // ROWS_PER_PART)
    sums = np.zeros((parts, hidden), h.dtype)
    for part in prange(parts):
        wide_vectors()
        for row in range(part * rows // parts, (part + 1) * rows // parts):
            for c in range(hidden):
                x = h[row, c] + bias[c]
                below, density = normal(x)
                grad = dy[row, c] * (below + x * density)
                dy[row, c] = grad
                sums[part, c] += grad
    db[:] = 0
    for part in range(parts):
        for c in range(hidden):
            db[c] += sums[part, c]

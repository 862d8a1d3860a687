"""GELU and GRN, between the matrix products of the MLP: two passes forward, two backward.

Where the second product applies GRN (its weights scaled for each image), only the first pass forward and the last
backward. ``h`` is the first Linear's product without its bias, which is added here. GELU is recomputed, not kept.
"""

import numpy as np
from numba import prange
from torch import Tensor

from fcmae.sparse.backends.numba.gelu import normal
from fcmae.sparse.backends.numba.runtime import device_function, inlined, launch, parallel_kernel, wide_vectors

SITES_PER_PART = 128  # of the sums over an image


def gelu_grn(
    h_BMH: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """GRN(GELU(h + bias)); the norms n of g = GELU(h + bias) over each image's sites, [B, H]; and 1 + γ · n.

    Without β only the first of two passes: g in place of GRN's output.
    """
    y_BMH = h_BMH.new_empty(h_BMH.shape)
    norm_BH, scale_BH = h_BMH.new_empty(2, len(h_BMH), len(bias))
    added = gamma if beta is None else beta  # not read without β
    launch(_gelu_grn, h_BMH, bias, gamma, added, eps, beta is not None, y_BMH, norm_BH, scale_BH)
    return y_BMH, norm_BH, scale_BH


def gelu_grn_grad_(
    dy_BMH: Tensor, h_BMH: Tensor, bias: Tensor, gamma: Tensor, norm_BH: Tensor, eps: float,
    dy_g_BH: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients to h, written over ``dy``, and to the bias and γ. (The gradient to β is the sum of ``dy``.)

    With ``dy_g``, the sum of dy · g over each image's sites, ``dy`` must be multiplied by 1 + γ · n already.

    Raises:
        ValueError: ``dy`` is not contiguous.
    """
    if not dy_BMH.is_contiguous():
        raise ValueError("dy is overwritten, so it must be contiguous")
    scaled, grads = dy_g_BH is not None, dy_BMH.new_empty(2, len(bias))
    if dy_g_BH is None:
        dy_g_BH = dy_BMH.new_empty(norm_BH.shape)
    launch(_gelu_grn_grad, dy_BMH, h_BMH, bias, gamma, norm_BH, eps, scaled, dy_g_BH, grads)
    return dy_BMH, *grads


@parallel_kernel
def _gelu_grn(h, bias, gamma, beta, eps, apply, y, norms, scale):  # type: ignore[no-untyped-def]
    batch, sites, hidden = h.shape
    parts = -(-sites // SITES_PER_PART)
    squares = np.zeros((batch, parts, hidden), h.dtype)
    for number in prange(batch * parts):
        wide_vectors()
        image, part, first, last = _part_of_image(number, parts, sites)
        for site in range(first, last):
            for c in range(hidden):
                x = h[image, site, c] + bias[c]
                below, _ = normal(x)
                y[image, site, c] = x * below
                squares[image, part, c] += x * below * (x * below)
    for image in prange(batch):
        for part in range(1, parts):
            for c in range(hidden):
                squares[image, 0, c] += squares[image, part, c]
        for c in range(hidden):
            norms[image, c] = np.sqrt(squares[image, 0, c])
        inverse = _inverse_mean(norms[image], eps)
        for c in range(hidden):
            scale[image, c] = 1 + gamma[c] * (norms[image, c] * inverse)
    if apply:
        for number in prange(batch * parts):
            wide_vectors()
            image, part, first, last = _part_of_image(number, parts, sites)
            for site in range(first, last):
                for c in range(hidden):
                    y[image, site, c] = y[image, site, c] * scale[image, c] + beta[c]


@parallel_kernel
def _gelu_grn_grad(dy, h, bias, gamma, norms, eps, scaled, dy_g, grads):  # type: ignore[no-untyped-def]
    """As in :mod:`fcmae.sparse.backends.pytorch`: dg = a · dy + through · g, then back through GELU.

    ``scaled``: ``dy`` holds a · dy and ``dy_g`` holds Σ dy · g; otherwise the latter is computed here.
    """
    batch, sites, hidden = h.shape
    parts = -(-sites // SITES_PER_PART)
    of_parts, of_image = (batch, parts, hidden), (batch, hidden)
    products, dh_sum = np.zeros(of_parts, h.dtype), np.zeros(of_parts, h.dtype)
    scale, through, dgamma = np.ones(of_image, h.dtype), np.empty(of_image, h.dtype), np.empty(of_image, h.dtype)
    if not scaled:
        for number in prange(batch * parts):
            wide_vectors()
            image, part, first, last = _part_of_image(number, parts, sites)
            for site in range(first, last):
                for c in range(hidden):
                    x = h[image, site, c] + bias[c]
                    below, _ = normal(x)
                    products[image, part, c] += dy[image, site, c] * (x * below)
    for image in prange(batch):
        norm, inverse = norms[image], _inverse_mean(norms[image], eps)
        if not scaled:
            for c in range(hidden):
                scale[image, c] = 1 + gamma[c] * (norm[c] * inverse)
                dy_g[image, c] = products[image, 0, c]
            for part in range(1, parts):
                for c in range(hidden):
                    dy_g[image, c] += products[image, part, c]
        shared = h.dtype.type(0)
        for c in range(hidden):
            dgamma[image, c] = dy_g[image, c] * (norm[c] * inverse)
            shared += gamma[c] * dgamma[image, c]
        shared /= hidden
        for c in range(hidden):
            d_norm = (gamma[c] * dy_g[image, c] - shared) * inverse
            through[image, c] = d_norm / norm[c] if norm[c] > 0 else 0
    for number in prange(batch * parts):
        wide_vectors()
        image, part, first, last = _part_of_image(number, parts, sites)
        for site in range(first, last):
            for c in range(hidden):
                x = h[image, site, c] + bias[c]
                below, density = normal(x)
                grad = dy[image, site, c] * scale[image, c] + x * below * through[image, c]
                grad *= below + x * density
                dy[image, site, c] = grad
                dh_sum[image, part, c] += grad
    grads[:] = 0
    for image in range(batch):
        for c in range(hidden):
            grads[1, c] += dgamma[image, c]
        for part in range(parts):
            for c in range(hidden):
                grads[0, c] += dh_sum[image, part, c]


@inlined
def _part_of_image(number, parts, sites):  # type: ignore[no-untyped-def]
    """Which image, which of its parts, and that one's sites: from the first to before the last."""
    part = number % parts
    return number // parts, part, part * sites // parts, (part + 1) * sites // parts


@device_function
def _inverse_mean(norms, eps):  # type: ignore[no-untyped-def]
    """1 / (mean over channels + eps)."""
    total = norms.dtype.type(0)
    for c in range(len(norms)):
        total += norms[c]
    return norms.dtype.type(1 / (total / len(norms) + eps))

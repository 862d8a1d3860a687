"""The passes of GRN over its wide tensor."""

from numba import prange
from torch import Tensor

from fcmae.sparse.loops.runtime import compiled, run

SITES_PER_PART = 128  # of the sums over an image


def sum_of_squares(x_BMC: Tensor) -> Tensor:
    """Over the sites of each image, [B, 1, C]."""
    parts = _parts_like(x_BMC)
    run(_sum_of_squares, x_BMC, parts)
    return parts.sum(1, keepdim=True)


def sums_with(dy_BMC: Tensor, x_BMC: Tensor) -> tuple[Tensor, Tensor]:
    """Over the sites of each image, dy · x and dy, [B, 1, C] each."""
    products, plain = _parts_like(x_BMC), _parts_like(x_BMC)
    run(_sums_with, dy_BMC, x_BMC, products, plain)
    return products.sum(1, keepdim=True), plain.sum(1, keepdim=True)


def scale_and_shift(x_BMC: Tensor, scale_B1C: Tensor, shift_C: Tensor) -> Tensor:
    """x · scale + shift."""
    out = x_BMC.new_empty(x_BMC.shape)
    run(_scale_and_shift, x_BMC, scale_B1C, shift_C, out)
    return out


def combine(dy_BMC: Tensor, scale_B1C: Tensor, x_BMC: Tensor, factor_B1C: Tensor) -> Tensor:
    """dy · scale + x · factor."""
    out = x_BMC.new_empty(x_BMC.shape)
    run(_combine, dy_BMC, scale_B1C, x_BMC, factor_B1C, out)
    return out


def _parts_like(x_BMC: Tensor) -> Tensor:
    batch, sites, channels = x_BMC.shape
    return x_BMC.new_zeros(batch, -(-sites // SITES_PER_PART), channels)


@compiled
def _sum_of_squares(x, parts):  # type: ignore[no-untyped-def]
    (_, sites, channels), per_image = x.shape, parts.shape[1]
    for number in prange(parts.shape[0] * per_image):
        image, part = number // per_image, number % per_image
        for site in range(part * sites // per_image, (part + 1) * sites // per_image):
            for c in range(channels):
                parts[image, part, c] += x[image, site, c] * x[image, site, c]


@compiled
def _sums_with(dy, x, products, plain):  # type: ignore[no-untyped-def]
    (_, sites, channels), per_image = x.shape, products.shape[1]
    for number in prange(products.shape[0] * per_image):
        image, part = number // per_image, number % per_image
        for site in range(part * sites // per_image, (part + 1) * sites // per_image):
            for c in range(channels):
                products[image, part, c] += dy[image, site, c] * x[image, site, c]
                plain[image, part, c] += dy[image, site, c]


@compiled
def _scale_and_shift(x, scale, shift, out):  # type: ignore[no-untyped-def]
    batch, sites, channels = x.shape
    for row in prange(batch * sites):
        image, site = row // sites, row % sites
        for c in range(channels):
            out[image, site, c] = x[image, site, c] * scale[image, 0, c] + shift[c]


@compiled
def _combine(dy, scale, x, factor, out):  # type: ignore[no-untyped-def]
    batch, sites, channels = x.shape
    for row in prange(batch * sites):
        image, site = row // sites, row % sites
        for c in range(channels):
            out[image, site, c] = dy[image, site, c] * scale[image, 0, c] + x[image, site, c] * factor[image, 0, c]

"""The gradients of layer norm, in one pass over x and dy."""

from numba import prange
from torch import Tensor

from fcmae.sparse.loops.runtime import parallel_loop, run, wide_vectors

ROWS_PER_PART, MOST_PARTS = 32, 64  # of the sums over rows


def layer_norm_grad(dy: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """To x, weight and bias; x and dy are [rows, C], ``mean`` and ``rstd`` (1 / standard deviation) have one a row."""
    sums = x.new_empty(max(1, min(MOST_PARTS, len(x) // ROWS_PER_PART)), 2, x.shape[1])
    dx = x.new_empty(x.shape)
    run(_layer_norm_grad, dy, x, weight, mean.flatten(), rstd.flatten(), sums, dx)
    return dx, *sums[0]


@parallel_loop
def _layer_norm_grad(dy, x, weight, mean, rstd, sums, dx):  # type: ignore[no-untyped-def]
    """dx = rstd · (g − mean(g) − n · mean(g · n)), n = (x − mean) · rstd, g = weight · dy."""
    (rows, channels), parts = x.shape, len(sums)
    for part in prange(parts):
        wide_vectors()
        sums[part] = 0
        for row in range(part * rows // parts, (part + 1) * rows // parts):
            of_g = of_gn = x.dtype.type(0)
            for c in range(channels):
                g = dy[row, c] * weight[c]
                of_g += g
                of_gn += g * ((x[row, c] - mean[row]) * rstd[row])
            of_g /= channels
            of_gn /= channels
            for c in range(channels):
                n = (x[row, c] - mean[row]) * rstd[row]
                dx[row, c] = (dy[row, c] * weight[c] - of_g - n * of_gn) * rstd[row]
                sums[part, 0, c] += dy[row, c] * n
                sums[part, 1, c] += dy[row, c]
    for part in range(1, parts):
        for c in range(channels):
            sums[0, 0, c] += sums[part, 0, c]
            sums[0, 1, c] += sums[part, 1, c]

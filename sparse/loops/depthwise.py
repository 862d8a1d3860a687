"""Submanifold depthwise convolution and its gradients.

Small patches, and kernels of another size than ConvNeXt's, go site by site; larger ones window by window.
"""

from torch import Tensor

from fcmae.sparse.loops.by_site import convolve_by_site, convolve_grad_by_site
from fcmae.sparse.loops.by_window import ABREAST, TAPS, WIDTH, convolve_by_window, convolve_grad_by_window
from fcmae.sparse.loops.runtime import run

# Backward, each part has its own sum over its rows, [k·k + 1, C]. More threads than parts would have nothing to do.
ROWS_PER_PART, PATCHES_PER_PART, MOST_PARTS = 32, 4, 64


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, window: Tensor, raster_of_z: Tensor) -> Tensor:
    """Submanifold depthwise convolution.

    Args:
        x: [rows, C].
        weight: [C, 1, k, k].
        bias: [C] or None.
        window: int64 [N, (s + k − 1)²], the rows of each patch and its halo; ``rows`` where there is no site.
        raster_of_z: int64 [s·s], place in raster order of each site of a patch.
    """
    out = x.new_empty(x.shape)
    start = x.new_zeros(x.shape[1]) if bias is None else bias
    side, size = _side(raster_of_z), weight.shape[-1]
    if _by_window(side, size):
        width, _ = _blocks(x.shape[1])
        run(convolve_by_window, x, weight.flatten(1), start, window, raster_of_z, side, width, out)
    else:
        run(convolve_by_site, x, weight.flatten(1), start, window, raster_of_z, side, size, out)
    return out


def convolve_grad(
    x: Tensor, dy: Tensor, weight: Tensor, window: Tensor, raster_of_z: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Its gradients to x, to the weight and to the bias, in their shapes; ``dy`` is [rows, C]."""
    side, size, channels = _side(raster_of_z), weight.shape[-1], x.shape[1]
    dx, dweight, dbias = x.new_empty(x.shape), x.new_empty(channels, size * size), x.new_empty(channels)
    args = (x, dy, weight.flatten(1), window, raster_of_z, side)
    if _by_window(side, size):
        width, blocks = _blocks(channels)
        num_parts = max(1, min(MOST_PARTS, len(window) // PATCHES_PER_PART))
        parts = x.new_empty(num_parts, blocks, (size * size + 1) * WIDTH)
        run(convolve_grad_by_window, *args, width, parts, dx, dweight, dbias)
    else:
        num_parts = max(1, min(MOST_PARTS, len(x) // ROWS_PER_PART))
        parts = x.new_empty(num_parts, size * size + 1, channels)
        run(convolve_grad_by_site, *args, size, parts, dx, dweight, dbias)
    return dx, dweight.view(weight.shape), dbias


def _side(raster_of_z: Tensor) -> int:
    return 1 << (len(raster_of_z).bit_length() - 1) // 2  # s = 2ⁿ, s·s = 4ⁿ


def _by_window(side: int, size: int) -> bool:
    return size == TAPS and side % ABREAST == 0


def _blocks(channels: int) -> tuple[int, int]:
    """Channels of a block, a multiple of a vector's eight, and the number of blocks."""
    width = 8 * -(-channels // (8 * -(-channels // WIDTH)))
    return width, -(-channels // width)

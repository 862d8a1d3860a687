"""Submanifold depthwise convolution and its gradients by CPU kernels.

Small patches, and kernels of another size than ConvNeXt's, go site by site; larger ones window by window. Masked
positions are not computed. The gradients to the input and to the weight read the same rows of the output's gradient:
one kernel gives both.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fcmae.sparse.backends import pytorch
from fcmae.sparse.backends.numba.by_site import convolve_by_site, convolve_grad_by_site
from fcmae.sparse.backends.numba.by_window import ABREAST, KERNEL, WIDTH, convolve_by_window, convolve_grad_by_window
from fcmae.sparse.backends.numba.guards import can_run
from fcmae.sparse.backends.numba.runtime import launch
from fcmae.sparse.backends.numba.windows import raster_of_z, window_index
from fcmae.sparse.backends.operations import check_depthwise
from fcmae.sparse.sites import ActiveSites

# Backward, each part has its own sum over its rows, [k·k + 1, C]. More threads than parts would have nothing to do.
ROWS_PER_PART, PATCHES_PER_PART, MOST_PARTS = 32, 4, 64


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None, sites: ActiveSites, side: int) -> Tensor:
    """See :func:`fcmae.sparse.backends.pytorch.depthwise_conv`."""
    if not can_run(x, weight, bias):
        return pytorch.depthwise_conv(x, weight, bias, sites, side)
    check_depthwise(x, weight, bias, sites, side)
    window = window_index(sites, side, weight.shape[-1] // 2)
    return _DepthwiseConv.apply(x, weight, bias, window, side)


class _DepthwiseConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, window: Tensor, side: int) -> Tensor:
        ctx.save_for_backward(x, weight, window)
        ctx.side, size = side, weight.shape[-1]
        out = x.new_empty(x.shape)
        args = (x, weight.flatten(1), x.new_zeros(x.shape[1]) if bias is None else bias, window, raster_of_z(side))
        if _by_window(side, size):
            launch(convolve_by_window, *args, side, _blocks(x.shape[1])[0], out)
        else:
            launch(convolve_by_site, *args, side, size, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, window = ctx.saved_tensors
        side, size, channels = ctx.side, weight.shape[-1], x.shape[1]
        dx, dweight, dbias = x.new_empty(x.shape), x.new_empty(channels, size * size), x.new_empty(channels)
        args = (x, dy, weight.flatten(1), window, raster_of_z(side), side)
        if _by_window(side, size):
            width, blocks = _blocks(channels)
            num_parts = max(1, min(MOST_PARTS, len(window) // PATCHES_PER_PART))
            parts = x.new_empty(num_parts, blocks, (size * size + 1) * WIDTH)
            launch(convolve_grad_by_window, *args, width, parts, dx, dweight, dbias)
        else:
            num_parts = max(1, min(MOST_PARTS, len(x) // ROWS_PER_PART))
            parts = x.new_empty(num_parts, size * size + 1, channels)
            launch(convolve_grad_by_site, *args, size, parts, dx, dweight, dbias)
        return dx, dweight.view(weight.shape), dbias if ctx.needs_input_grad[2] else None, None, None


def _by_window(side: int, size: int) -> bool:
    return size == KERNEL and side % ABREAST == 0


def _blocks(channels: int) -> tuple[int, int]:
    """Channels of a block, a multiple of a vector's eight, and the number of blocks."""
    width = 8 * -(-channels // (8 * -(-channels // WIDTH)))
    return width, -(-channels // width)

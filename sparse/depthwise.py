"""Submanifold depthwise convolution, the one operation that looks at neighbors.

Forward and dgrad scatter the sites to a channels-last grid, convolve, and gather: the library's depthwise kernel is
fast, and an empty position adds nothing. On a CPU, where patches are large against the kernel, they are convolved patch
by patch instead, each with its halo as an image of a batch: the masked positions are not computed at all.

The library's wgrad is not fast: on a CPU it took about ten times the forward. There the gradient to the weight is
computed as a depthwise convolution too, patch by patch: the kernel is the patch's output gradient, the input is the
patch with its halo, and (batch, channel) are the channels.

Where Numba is installed, compiled loops take the place of both (see :mod:`fcmae.sparse.loops`): no windows are written
to memory, no position is computed that no site needs, and the gradients to x and to the weight share a pass over the
output's. benchmarks/depthwise.py times all of them.
"""

import math
from types import ModuleType
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fcmae.sparse.compiled import loops_for
from fcmae.sparse.ops import autocast_args, gather_from_grid, scatter_to_grid
from fcmae.sparse.sites import ActiveSites


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None, sites: ActiveSites, side: int) -> Tensor:
    """Depthwise convolution, stride 1, zero padding, output sites = input sites: m · conv(m · x).

    Args:
        x: [B·K·s·s, C].
        weight: [C, 1, k, k], k odd; a dense convolution's.
        bias: [C] or None.
        sites: the active sites.
        side: s.

    Returns:
        [B·K·s·s, C]. Under autocast, in its dtype.

    Raises:
        ValueError: an even or oblong kernel, or rows or channels that do not fit.
    """
    check_args(x, weight, bias, sites, side)
    x, weight, bias = autocast_args(x, weight, bias)
    radius, shape = weight.shape[-1] // 2, sites.grid_shape(side)
    loops = loops_for(x, weight, x if bias is None else bias)
    ways = _choose_ways(x.device, loops is not None, sites, side, radius)
    # the indices enter as plain tensors: made inside the function, torch.compile could not follow the cache they go to
    grid = patch_window = raster_of_z = window = raster = None
    if {"grid", "image", "library"}.intersection(ways) and not sites.rows_are_grid(side):
        grid = sites.grid_index(side)
    if ways.convolve in ("patch", "loops"):
        patch_window, raster_of_z = sites.patch_window_index(side, radius), sites.raster_of_z(side)
    if ways.wgrad == "patch":
        window, raster = sites.window_index(side, radius), sites.raster_index(side)
    return _DepthwiseConv.apply(x, weight, bias, grid, patch_window, raster_of_z, window, raster, shape, ways, loops)


class _Ways(NamedTuple):
    """How to compute it: the same numbers, not the same time."""

    convolve: Literal["grid", "patch", "loops"]
    wgrad: Literal["library", "image", "patch", "loops"]


def _choose_ways(device: torch.device, compiled: bool, sites: ActiveSites, side: int, radius: int) -> _Ways:
    if device.type != "cpu":
        return _Ways("grid", "library")
    if compiled:
        return _Ways("loops", "loops")
    convolve: Literal["grid", "patch"] = "grid"
    if side > 1 and _by_patch_is_less_work(sites, side, radius):
        convolve = "patch"
    return _Ways(convolve, "patch" if side > 1 else "image")


def _by_patch_is_less_work(sites: ActiveSites, side: int, radius: int) -> bool:
    """Patches with their halos hold more positions than the grid where patches are small, or few are masked.

    A position on the grid costs more: it is scattered and computed, masked or not. At a ratio of 2.55 (7×7 kernel,
    s = 4, 20 of 49 patches) by patch still took 0.8 to 0.9 of the time.
    """
    windows = sites.num_visible * (side + 2 * radius) ** 2
    return windows <= 2.6 * sites.height * sites.width * side**2


def check_args(x: Tensor, weight: Tensor, bias: Tensor | None, sites: ActiveSites, side: int) -> None:
    """ValueError unless this is a depthwise kernel of odd size with its bias, and features of these sites."""
    channels, one, kernel, kernel_w = weight.shape
    if one != 1 or kernel != kernel_w or kernel % 2 == 0:
        raise ValueError(f"a depthwise kernel is [C, 1, k, k] with odd k, got {list(weight.shape)}")
    if x.shape != (sites.num_sites(side), channels):
        raise ValueError(f"features must be [{sites.num_sites(side)}, {channels}], got {list(x.shape)}")
    if bias is not None and bias.shape != (channels,):
        raise ValueError(f"the bias must be [{channels}], got {list(bias.shape)}")


GridShape = tuple[int, int, int]


class _DepthwiseConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, grid: Tensor | None,
        patch_window: Tensor | None, raster_of_z: Tensor | None, window: Tensor | None, raster: Tensor | None,
        shape: GridShape, ways: _Ways, loops: ModuleType | None,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, weight, grid, patch_window, raster_of_z, window, raster)
        ctx.shape, ctx.ways, ctx.loops = shape, ways, loops
        return _convolve(ways, loops, x, weight, bias, grid, patch_window, raster_of_z, shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, grid, patch_window, raster_of_z, window, raster = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        dx = dweight = dbias = None
        if ctx.ways.wgrad == "loops" and (needs_weight or needs_bias):
            dx, dweight, dbias = ctx.loops.convolve_grad(x, dy, weight, patch_window, raster_of_z)
            return dx, dweight, dbias if needs_bias else None, *(None,) * 8
        if needs_x:  # the sites are their own neighbors' neighbors
            args = (grid, patch_window, raster_of_z, ctx.shape)
            dx = _convolve(ctx.ways, ctx.loops, dy, weight.flip(2, 3), None, *args)
        if needs_weight and ctx.ways.wgrad == "patch":
            dweight = _wgrad_by_patch(x, dy, weight, window, raster)
        elif needs_weight:
            by_image = ctx.ways.wgrad == "image"
            dweight = (_wgrad_by_image if by_image else _wgrad_by_library)(x, dy, weight, grid, ctx.shape)
        if needs_bias:
            dbias = dy.sum(0, dtype=torch.promote_types(dy.dtype, torch.float32)).to(dy.dtype)
        return dx, dweight, dbias, *(None,) * 8


def _convolve(
    ways: _Ways, loops: ModuleType | None, x: Tensor, weight: Tensor, bias: Tensor | None,
    grid: Tensor | None, patch_window: Tensor | None, raster_of_z: Tensor | None, shape: GridShape,
) -> Tensor:  # fmt: skip
    if ways.convolve == "loops" and loops is not None and patch_window is not None and raster_of_z is not None:
        return loops.convolve(x, weight, bias, patch_window, raster_of_z)
    if ways.convolve == "grid" or patch_window is None or raster_of_z is None:
        return _convolve_on_grid(x, weight, bias, grid, shape)
    return _convolve_by_patch(x, weight, bias, patch_window, raster_of_z)


def _convolve_by_patch(
    x: Tensor, weight: Tensor, bias: Tensor | None, patch_window: Tensor, raster_of_z: Tensor
) -> Tensor:
    channels, side = weight.shape[0], math.isqrt(len(raster_of_z))
    halo_side = side + weight.shape[-1] - 1
    x_NYXC = _with_zero_row(x).index_select(0, patch_window.flatten()).view(-1, halo_side, halo_side, channels)
    out_NCyx = F.conv2d(x_NYXC.permute(0, 3, 1, 2), weight, bias, groups=channels)
    return out_NCyx.permute(0, 2, 3, 1).flatten(1, 2).index_select(1, raster_of_z).view(-1, channels)


def _with_zero_row(x: Tensor) -> Tensor:
    """[rows, C] → [rows + 1, C]; empty positions of a window point to the last row."""
    return torch.cat([x, x.new_zeros(1, x.shape[1])])


def _convolve_on_grid(x: Tensor, weight: Tensor, bias: Tensor | None, grid: Tensor | None, shape: GridShape) -> Tensor:
    x_BCHW = scatter_to_grid(x, grid, shape).permute(0, 3, 1, 2)
    out_BCHW = F.conv2d(x_BCHW, weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])
    return gather_from_grid(out_BCHW.permute(0, 2, 3, 1), grid)


def _wgrad_by_library(x: Tensor, dy: Tensor, weight: Tensor, grid: Tensor | None, shape: GridShape) -> Tensor:
    x_BCHW, dy_BCHW = (scatter_to_grid(t, grid, shape).permute(0, 3, 1, 2) for t in (x, dy))
    channels, _, kernel, _ = weight.shape
    padding = [kernel // 2] * 2
    _, dweight, _ = torch.ops.aten.convolution_backward(
        dy_BCHW, x_BCHW, weight, None, [1, 1], padding, [1, 1], False, [0, 0], channels, [False, True, False]
    )
    return dweight


def _wgrad_by_patch(x: Tensor, dy: Tensor, weight: Tensor, window: Tensor, raster: Tensor) -> Tensor:
    channels = weight.shape[0]
    side, halo_side = (math.isqrt(len(index)) for index in (raster, window))
    x_yxNC = _with_zero_row(x).index_select(0, window.flatten()).view(halo_side, halo_side, -1, channels)
    dy_yxNC = dy.index_select(0, raster.flatten()).view(side, side, -1, channels)
    return _correlate(x_yxNC, dy_yxNC)


def _wgrad_by_image(x: Tensor, dy: Tensor, weight: Tensor, grid: Tensor | None, shape: GridShape) -> Tensor:
    """As by patch, the whole image one window: with one site a patch, the halos would be nearly all of the work."""
    radius = weight.shape[-1] // 2
    x_BHWC, dy_BHWC = (scatter_to_grid(t, grid, shape) for t in (x, dy))
    x_HWBC = F.pad(x_BHWC.permute(1, 2, 0, 3), (0, 0, 0, 0, radius, radius, radius, radius))
    return _correlate(x_HWBC, dy_BHWC.permute(1, 2, 0, 3).contiguous())


def _correlate(x_YXNC: Tensor, dy_yxNC: Tensor) -> Tensor:
    """[t + k − 1, t + k − 1, N, C] and [t, t, N, C] → [C, 1, k, k]: depthwise over N·C channels, summed over N."""
    height, width, num, channels = x_YXNC.shape
    x_1MYX = x_YXNC.reshape(1, height, width, num * channels).permute(0, 3, 1, 2)
    dy_M1yx = dy_yxNC.reshape(1, *dy_yxNC.shape[:2], num * channels).permute(3, 0, 1, 2)
    out_1Mkk = F.conv2d(x_1MYX, dy_M1yx, groups=num * channels)
    kernel = out_1Mkk.shape[-1]
    return out_1Mkk.permute(0, 2, 3, 1).reshape(kernel, kernel, num, channels).sum(2).permute(2, 0, 1).unsqueeze(1)

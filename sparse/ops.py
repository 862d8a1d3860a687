"""Between grids and site matrices: gather, downsample, densify. All differentiable, none looks at a neighbor."""

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from fcmae.sparse.compiled import loops_for
from fcmae.sparse.sites import ActiveSites


def gather_image_patches(images: Tensor, sites: ActiveSites, side: int) -> Tensor:
    """The visible pixels, one row a site, ready for the stem's GEMM.

    Args:
        images: [B, C, H, W] with H = h·s·p and W = w·s·p for a stem of kernel p and stride p.
        sites: the visible patches of these images.
        side: s, sites along one side of a patch after the stem.

    Returns:
        [B·K·s·s, C·p·p], columns in the order of a convolution's weight (channel, y, x). Masked pixels are never read.

    Raises:
        ValueError: the images do not fit the patch grid.
    """
    batch, _, height, width = images.shape
    patch_h, patch_w = height // sites.height, width // sites.width
    fits = patch_h == patch_w and patch_h % side == 0 and patch_h > 0
    if side < 1 or side & (side - 1):
        raise ValueError(f"sites along the side of a patch must be a power of two, got {side}")
    if batch != sites.batch_size or not fits or height % sites.height or width % sites.width:
        raise ValueError(
            f"images {list(images.shape)} do not fit a mask {list(sites.visible.shape)} "
            f"with {side}×{side} sites in a square patch"
        )
    loops = None if images.requires_grad else loops_for(images)
    if loops:
        return loops.stem_columns(images, sites.patches, side, patch_h // side, sites.raster_of_z(side))
    grid_BCyYxX = images.unflatten(3, (sites.width, patch_w)).unflatten(2, (sites.height, patch_h))
    image_B = torch.arange(batch, device=images.device)[:, None]
    patches_BKCYX = grid_BCyYxX[image_B, :, sites.patches // sites.width, :, sites.patches % sites.width]
    return _to_zorder(patches_BKCYX.flatten(0, 1), side)


def _to_zorder(patches_NCYX: Tensor, side: int) -> Tensor:
    """[N, C, s·p, s·p] → [N·s·s, C·p·p]: each axis of s = 2ⁿ sites split into its n bits, the bits interleaved."""
    bits = range(side.bit_length() - 1)[::-1]
    ys, xs = " ".join(f"y{b}" for b in bits), " ".join(f"x{b}" for b in bits)
    interleaved = " ".join(f"y{b} x{b}" for b in bits)
    sizes = {f"{axis}{b}": 2 for b in bits for axis in "yx"}
    return rearrange(patches_NCYX, f"n c ({ys} p) ({xs} q) -> (n {interleaved}) (c p q)", **sizes)


def downsample(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """2×2 stride-2 convolution. Its four inputs are neighboring rows in Z-order, so it is a view and one GEMM.

    Args:
        x: [B·K·s·s, C_in], s even.
        weight: [C_out, C_in, 2, 2], a dense convolution's.
        bias: [C_out] or None.

    Returns:
        [B·K·(s/2)·(s/2), C_out].
    """
    if weight.shape[2:] != (2, 2):
        raise ValueError(f"downsampling takes a 2×2 kernel, got {list(weight.shape)}")
    merged = x.reshape(x.shape[0] // 4, 4 * x.shape[1])  # columns (y, x, C_in)
    return F.linear(merged, rearrange(weight, "o i y x -> o (y x i)"), bias)


def densify(x: Tensor, sites: ActiveSites, side: int) -> Tensor:
    """Scatter sites back to the grid: [B·K·s·s, C] → [B, C, h·s, w·s] (channels-last in memory), zero where masked."""
    return scatter_to_grid(x, _grid_index(sites, side), sites.grid_shape(side)).permute(0, 3, 1, 2)


def gather_sites(grid: Tensor, sites: ActiveSites, side: int) -> Tensor:
    """The converse of :func:`densify`: [B, C, h·s, w·s] → [B·K·s·s, C], the values at the active sites."""
    return gather_from_grid(grid.permute(0, 2, 3, 1), _grid_index(sites, side))


def _grid_index(sites: ActiveSites, side: int) -> Tensor | None:
    return None if sites.rows_are_grid(side) else sites.grid_index(side)


def scatter_to_grid(x: Tensor, index: Tensor | None, shape: tuple[int, int, int]) -> Tensor:
    """[rows, C] → contiguous [*shape, C], zero where no row goes; index None: the rows are the grid."""
    channels = x.shape[1]
    if index is None:
        return x.reshape(*shape, channels)
    return x.new_zeros(math.prod(shape), channels).index_copy(0, index, x).view(*shape, channels)


def gather_from_grid(grid: Tensor, index: Tensor | None) -> Tensor:
    """[B, H, W, C] → [rows, C]; index None: all, in raster order."""
    rows = grid.reshape(-1, grid.shape[-1])
    return rows if index is None else rows.index_select(0, index)


_Bias = TypeVar("_Bias", Tensor, Tensor | None)


def autocast_args(x: Tensor, weight: Tensor, bias: _Bias) -> tuple[Tensor, Tensor, _Bias]:
    """In autocast's dtype, where it is on."""
    if not torch.is_autocast_enabled(x.device.type):
        return x, weight, bias
    dtype = torch.get_autocast_dtype(x.device.type)
    return x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)

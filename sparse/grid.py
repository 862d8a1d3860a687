"""Between site matrices and dense grids. All differentiable."""

import math

from torch import Tensor

from fcmae.sparse.sites import ActiveSites


def densify(x: Tensor, sites: ActiveSites, side: int) -> Tensor:
    """Scatter sites back to the grid: [B·K·s·s, C] → [B, C, h·s, w·s] (channels-last in memory), zero where masked."""
    return scatter_to_grid(x, grid_index(sites, side), sites.grid_shape(side)).permute(0, 3, 1, 2)


def gather_sites(grid: Tensor, sites: ActiveSites, side: int) -> Tensor:
    """The inverse of :func:`densify`: [B, C, h·s, w·s] → [B·K·s·s, C], the values at the active sites."""
    return gather_from_grid(grid.permute(0, 2, 3, 1), grid_index(sites, side))


def grid_index(sites: ActiveSites, side: int) -> Tensor | None:
    """Place of each row in the flattened grid; None where the rows are the grid, in raster order."""
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

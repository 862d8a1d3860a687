"""Which rows a patch and its halo are."""

from functools import cache

import numpy as np
import torch
from numba import prange
from torch import Tensor

from fcmae.sparse.backends.numba.runtime import launch, parallel_kernel
from fcmae.sparse.sites import ActiveSites, zorder


def window_index(sites: ActiveSites, side: int, radius: int) -> Tensor:
    """int64 [N, (s + 2·radius)²]: the rows of each patch and its halo, in raster order; made once per batch and stage.

    Where the halo leaves the image or meets a masked patch the index is ``num_sites(side)``, one past the last row.
    """
    return sites.keep(("numba window", side, radius), lambda: _make_window_index(sites, side, radius))


@cache
def raster_of_z(side: int) -> np.ndarray:
    """int64 [s·s]: place in raster order of each site of a patch, in Z-order."""
    y, x = zorder(side)
    return (y * side + x).numpy()


def _make_window_index(sites: ActiveSites, side: int, radius: int) -> Tensor:
    out = torch.empty(sites.patches.numel(), (side + 2 * radius) ** 2, dtype=torch.int64)
    z_of_raster = np.argsort(raster_of_z(side))
    launch(_window_rows, sites.patch_slot(), sites.patches, radius, z_of_raster, side, out)
    return out


@parallel_kernel
def _window_rows(slot, patches, radius, z_of_raster, side, out):  # type: ignore[no-untyped-def]
    (_, height, width), per_image, halo_side = slot.shape, patches.shape[1], side + 2 * radius
    none = patches.size * side * side
    beside, place = np.empty(halo_side, np.int64), np.empty(halo_side, np.int64)  # patches on, and where in that one
    for i in range(halo_side):
        beside[i], place[i] = (i - radius) // side, (i - radius) % side
    for number in prange(patches.size):
        image, patch = number // per_image, patches[number // per_image, number % per_image]
        for i in range(halo_side):
            y = patch // width + beside[i]
            for j in range(halo_side):
                x = patch % width + beside[j]
                there = slot[image, y, x] if 0 <= y < height and 0 <= x < width else -1
                z = z_of_raster[place[i] * side + place[j]]
                out[number, i * halo_side + j] = there * side * side + z if there >= 0 else none

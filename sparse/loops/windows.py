"""Which rows a patch and its halo are."""

import numpy as np
from numba import prange
from torch import Tensor

from fcmae.sparse.loops.runtime import parallel_loop, run


def window_rows(slot_Bhw: Tensor, patches_BK: Tensor, radius: int, z_of_raster: Tensor, side: int) -> Tensor:
    """See :meth:`fcmae.sparse.ActiveSites.patch_window_index`.

    Args:
        slot_Bhw: int32, which of the N patches each cell of the patch grid is; −1 where masked.
        patches_BK: int64, raster index of each patch.
        radius: of the kernel.
        z_of_raster: int64 [s·s], place in Z-order of each site of a patch.
        side: s.
    """
    out = patches_BK.new_empty(patches_BK.numel(), (side + 2 * radius) ** 2)
    run(_window_rows, slot_Bhw, patches_BK, radius, z_of_raster, side, out)
    return out


@parallel_loop
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

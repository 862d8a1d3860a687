"""Which visible patches lie around each, on the device: made once for a batch and a reach, and kept with the sites."""

from typing import Any, NamedTuple

import triton
from torch import Tensor
from torch.library import custom_op

from fcmae.sparse.backends.triton.depthwise_kernels import neighbors_kernel
from fcmae.sparse.backends.triton.launch import Launch, many_or, next_power_of_2
from fcmae.sparse.sites import ActiveSites


class Neighbors(NamedTuple):
    """Of N visible patches, those at D × D offsets, D = 2 · reach + 1, in raster order; a patch is its own neighbor."""

    table: Tensor
    """int32 [N, D·D]: patch at each offset, −1 where there is none."""
    near: Tensor
    """int32 [N, D·D, 2]: patch and offset (0 … D·D − 1) of each neighbor there is; the rest is undefined."""
    counts: Tensor
    """int32 [N]: how many there are."""


def neighbors_of(sites: ActiveSites, side: int, size: int) -> Neighbors:
    """The neighbors that a kernel of ``size`` × ``size`` reaches from patches of ``side`` × ``side`` sites."""
    reach = triton.cdiv(size // 2, side)

    def make() -> Neighbors:
        return Neighbors(*_neighbors_op(sites.patches.flatten().int(), sites.patch_slot(), reach))

    return sites.keep(("triton neighbors", reach), make)


@custom_op("fcmae::patch_neighbors", mutates_args=())
def _neighbors_op(patches: Tensor, slot: Tensor, reach: int) -> tuple[Tensor, Tensor, Tensor]:
    """patches int32 [N], places in the patch grid; slot int32 [B, h, w]."""
    batch, height, width = slot.shape
    offsets = (2 * reach + 1) ** 2
    table, near, count = (patches.new_empty(len(patches), *shape) for shape in ((offsets,), (offsets, 2), ()))
    if len(patches):
        per_program = many_or(8)
        constants = {
            "K": len(patches) // batch, "HEIGHT": height, "WIDTH": width, "D": 2 * reach + 1,
            "BLOCK": next_power_of_2(offsets), "P": per_program,
        }  # fmt: skip
        launch = Launch(neighbors_kernel, (triton.cdiv(len(patches), per_program),), constants, num_warps=4)
        launch(patches, slot, table, near, count, len(patches))
    return table, near, count


@_neighbors_op.register_fake
def _(patches: Tensor, slot: Tensor, reach: int) -> tuple[Any, ...]:
    offsets = (2 * reach + 1) ** 2
    shapes: tuple[tuple[int, ...], ...] = ((offsets,), (offsets, 2), ())
    return tuple(patches.new_empty(len(patches), *shape) for shape in shapes)

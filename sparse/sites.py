"""Which positions hold features, at every tensor stride of the encoder, for one batch.

Mask patches are whole cells of the LAST stage, so at every stage the active sites are the same K patches of an image,
with s×s sites each (s = 8, 4, 2, 1 in a ConvNeXt). Features are kept as one matrix, one row per site:

    row = ((image · K + patch) · s·s) + z        patches in raster order, z = place in the patch's Z-order (Morton)

Z-order makes the four sites that a 2×2 stride-2 convolution merges adjacent in memory, at every stage.

Shape letters, here and in the whole package: B images, h×w the patch grid, K visible patches per image, s sites along
one side of a patch, N = B·K patches, C channels.
"""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def zorder(side: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """The (y, x) of each of the side·side sites of a patch in Z-order, two int64 tensors."""
    if side < 1 or side & (side - 1):
        raise ValueError(f"sites along the side of a patch must be a power of two, got {side}")
    z = torch.arange(side * side, device=device)
    y, x = torch.zeros_like(z), torch.zeros_like(z)
    for bit in range(side.bit_length() - 1):
        x |= (z >> (2 * bit) & 1) << bit
        y |= (z >> (2 * bit + 1) & 1) << bit
    return y, x


class ActiveSites:
    """The active sites of a batch, and the indices between rows and grids; each index is made once and kept.

    Args:
        visible: bool [B, h, w] over the patch grid, True = kept; the same number K ≥ 1 for every image of the batch.
        num_visible: K, if the caller knows it. Without it K is read back from the device, which makes a GPU wait;
            with it a CPU mask is still checked, a GPU mask is trusted. Only when given may it be 0.

    Raises:
        ValueError: ``visible`` is not such a tensor, or its images keep different numbers of patches.
    """

    def __init__(
        self, visible: Tensor, num_visible: int | None = None, _patches: tuple[Tensor, Tensor] | None = None
    ) -> None:
        if visible.dtype != torch.bool or visible.ndim != 3:
            raise ValueError(f"visible must be bool [B, h, w], got {visible.dtype} {list(visible.shape)}")
        may_check = _patches is None and visible.device.type == "cpu" and not torch.compiler.is_compiling()
        if num_visible is None or may_check:
            num_visible = _visible_per_image(visible, num_visible)
        self.visible = visible
        self.batch_size, self.height, self.width = visible.shape
        self.num_visible = num_visible
        self.patches, self._masked = self._split() if _patches is None else _patches
        """int64 [B, K]: raster index of each visible patch in its image's grid."""
        self._kept: dict[Hashable, Any] = {}

    @classmethod
    def full(cls, batch_size: int, height: int, width: int, device: torch.device | str = "cpu") -> "ActiveSites":
        """Sites with every patch visible."""
        visible = torch.ones(batch_size, height, width, dtype=torch.bool, device=device)
        return cls(visible, num_visible=height * width)

    def complement(self) -> "ActiveSites":
        """The masked patches as sites, possibly none."""
        masked = self.height * self.width - self.num_visible
        return self.keep("complement", lambda: ActiveSites(~self.visible, masked, (self._masked, self.patches)))

    @property
    def is_full(self) -> bool:
        """Whether every patch is visible."""
        return self.num_visible == self.height * self.width

    def num_sites(self, side: int) -> int:
        """Rows of the site matrix, B·K·s·s."""
        return self.batch_size * self.num_visible * side * side

    def grid_shape(self, side: int) -> tuple[int, int, int]:
        """(B, h·s, w·s): the dense grid around the sites."""
        return self.batch_size, self.height * side, self.width * side

    def rows_are_grid(self, side: int) -> bool:
        """Whether the site matrix already is the dense grid in raster order (all visible, one site per patch)."""
        return side == 1 and self.is_full

    def grid_index(self, side: int) -> Tensor:
        """int64 [B·K·s·s]: place of each row in the flattened [B·h·s·w·s] grid."""
        return self.keep(("grid", side), lambda: self._make_grid_index(side))

    def patch_slot(self) -> Tensor:
        """int32 [B, h, w]: which of the N visible patches each cell of the patch grid is; −1 where masked."""
        return self.keep("slot", self._make_patch_slot)

    def coordinates(self, side: int) -> tuple[Tensor, Tensor, Tensor]:
        """Image, y and x of each row on the grid of sites, three int64 [B·K·s·s]."""
        image_BK1 = torch.arange(self.batch_size, device=self.patches.device)[:, None, None]
        y_BK1, x_BK1 = ((axis * side)[..., None] for axis in (self.patches // self.width, self.patches % self.width))
        y_z, x_z = zorder(side, self.patches.device)
        y_BKz = y_BK1 + y_z
        return image_BK1.expand_as(y_BKz).flatten(), y_BKz.flatten(), (x_BK1 + x_z).flatten()

    def keep(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` returns, made when it is first asked for; for indices that a backend alone needs, too."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def _split(self) -> tuple[Tensor, Tensor]:
        """Raster indices of each image's visible and masked patches, int64 [B, K] and [B, h·w − K]."""
        if self.is_full:
            order_BL = torch.arange(self.height * self.width, device=self.visible.device).expand(self.batch_size, -1)
        else:  # stable: both kinds in raster order
            order_BL = self.visible.flatten(1).to(torch.uint8).argsort(dim=1, descending=True, stable=True)
        return order_BL[:, : self.num_visible], order_BL[:, self.num_visible :]

    def _make_grid_index(self, side: int) -> Tensor:
        _, height, width = self.grid_shape(side)
        if side == 1:
            image_B1 = torch.arange(self.batch_size, device=self.patches.device)[:, None]
            return (image_B1 * (height * width) + self.patches).flatten()
        image, y, x = self.coordinates(side)
        return (image * height + y) * width + x

    def _make_patch_slot(self) -> Tensor:
        slot = torch.full(self.visible.shape, -1, dtype=torch.int32, device=self.patches.device)
        number = torch.arange(self.patches.numel(), dtype=torch.int32, device=self.patches.device)
        slot.flatten(1).scatter_(1, self.patches, number.view_as(self.patches))
        return slot


def _visible_per_image(visible: Tensor, expected: int | None) -> int:
    """K of a mask, or a ValueError that shows the numbers."""
    counts = visible.flatten(1).sum(1)
    if counts.numel() == 0:
        raise ValueError(f"visible holds no image: shape {list(visible.shape)}")
    low, high = (int(n) for n in counts.aminmax())
    if low != high:
        raise ValueError(f"every image of a batch must keep the same number of patches, got {low} to {high}")
    if low == 0 and expected != 0:
        raise ValueError("every image must keep at least one patch, got 0 visible patches")
    if expected is not None and low != expected:
        raise ValueError(f"visible keeps {low} patches per image, but num_visible is {expected}")
    return low

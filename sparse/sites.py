"""Which positions hold features, at every tensor stride of the encoder, for one batch.

Mask patches are whole cells of the LAST stage, so at every stage the active sites are the same K patches of an image,
with s×s sites each (s = 8, 4, 2, 1 in a ConvNeXt). Features are kept as one matrix, a row a site:

    row = ((image · K + patch) · s·s) + z        patches in raster order, z = place in the patch's Z-order (Morton)

Z-order makes the four sites that a 2×2 stride-2 convolution merges neighbors in memory, at every stage.

Shape letters, here and in the whole package: B images, h×w the patch grid, K visible patches per image, s sites along
one side of a patch, N = B·K patches, C channels.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fcmae.sparse.compiled import loops_for


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
    """The active sites of a batch, and the indices that lead from rows to grids; each is made once and kept.

    Args:
        visible: bool [B, h, w] over the patch grid, True = kept; the same number K ≥ 1 for every image of the batch.
        num_visible: K, if the caller knows it. Without it K is read back from the device, which makes a GPU wait;
            with it a CPU mask is checked all the same, a GPU mask is trusted.

    Raises:
        ValueError: ``visible`` is not such a tensor, or its images keep different numbers of patches.
    """

    def __init__(self, visible: Tensor, num_visible: int | None = None) -> None:
        if visible.dtype != torch.bool or visible.ndim != 3:
            raise ValueError(f"visible must be bool [B, h, w], got {visible.dtype} {list(visible.shape)}")
        if num_visible is None or (visible.device.type == "cpu" and not torch.compiler.is_compiling()):
            num_visible = _count_visible(visible, num_visible)
        self.visible = visible
        self.batch_size, self.height, self.width = visible.shape
        self.num_visible = num_visible
        # stable: the visible patches of an image come first, in raster order, the masked ones after, likewise
        order_BL = visible.flatten(1).to(torch.uint8).argsort(dim=1, descending=True, stable=True)
        self.patches = order_BL[:, :num_visible]
        """int64 [B, K]: raster index of each visible patch in its image's grid."""
        self.masked_patches = order_BL[:, num_visible:]
        """int64 [B, h·w − K]: raster index of each masked patch."""
        self._cache: dict[tuple[str, int, int], Tensor] = {}
        self.extras: dict[str, Any] = {}
        """What a backend keeps with the sites of a batch."""

    @classmethod
    def full(cls, batch_size: int, height: int, width: int, device: torch.device | str = "cpu") -> "ActiveSites":
        """Sites with every patch visible."""
        visible = torch.ones(batch_size, height, width, dtype=torch.bool, device=device)
        return cls(visible, num_visible=height * width)

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
        """Whether the site matrix already is the dense grid in raster order (all visible, one site a patch)."""
        return side == 1 and self.is_full

    def grid_index(self, side: int) -> Tensor:
        """int64 [B·K·s·s]: place of each row in the flattened [B·h·s·w·s] grid."""
        return self._once("grid", side, 0, self._make_grid_index)

    def masked_index(self) -> Tensor:
        """int64 [B·(h·w − K)]: place of each masked patch in the flattened [B·h·w] patch grid."""
        return self._once("masked", 1, 0, self._make_masked_index)

    def raster_index(self, side: int) -> Tensor:
        """int64 [s·s, N]: the row of each site, sites of a patch in raster order, patches last."""
        return self._once("raster", side, 0, self._make_raster_index)

    def window_index(self, side: int, radius: int) -> Tensor:
        """int64 [(s + 2·radius)², N]: the rows of each patch and its halo, in raster order.

        Where the halo leaves the image or meets a masked patch the index is ``num_sites(side)``, one past the last row.
        """
        return self._once("window", side, radius, lambda s, r: self.patch_window_index(s, r).t().contiguous())

    def patch_window_index(self, side: int, radius: int) -> Tensor:
        """int64 [N, (s + 2·radius)²]: :meth:`window_index`, window by window."""
        return self._once("patch window", side, radius, self._make_patch_window_index)

    def raster_of_z(self, side: int) -> Tensor:
        """int64 [s·s]: place in raster order of each site of a patch, in Z-order."""
        return self._once("raster of z", side, 0, self._make_raster_of_z)

    def patch_slot(self) -> Tensor:
        """int32 [B, h, w]: which of the N visible patches each cell of the patch grid is; −1 where masked."""
        return self._once("slot", 1, 0, self._make_patch_slot)

    def patch_cell(self) -> Tensor:
        """int32 [N]: :attr:`patches`, flattened."""
        return self._once("cell", 1, 0, lambda _s, _r: self.patches.flatten().to(torch.int32))

    def coordinates(self, side: int) -> tuple[Tensor, Tensor, Tensor]:
        """Image, y and x of each row on the grid of sites, three int64 [B·K·s·s]."""
        image_N, y_N, x_N = self._patch_corners(side)
        zy, zx = zorder(side, self.patches.device)
        image_Nz = image_N[:, None].expand(-1, side * side)
        return image_Nz.flatten(), (y_N[:, None] + zy).flatten(), (x_N[:, None] + zx).flatten()

    def _once(self, kind: str, side: int, radius: int, make: Callable[[int, int], Tensor]) -> Tensor:
        key = (kind, side, radius)
        if key not in self._cache:
            self._cache[key] = make(side, radius)
        return self._cache[key]

    def _patch_corners(self, side: int) -> tuple[Tensor, Tensor, Tensor]:
        """Image, y and x of the first site of each patch, three int64 [N]."""
        image_BK = torch.arange(self.batch_size, device=self.patches.device)[:, None].expand_as(self.patches)
        y_BK = self.patches // self.width * side
        x_BK = self.patches % self.width * side
        return image_BK.flatten(), y_BK.flatten(), x_BK.flatten()

    def _make_grid_index(self, side: int, _: int) -> Tensor:
        _, height, width = self.grid_shape(side)
        image, y, x = self.coordinates(side)
        return (image * height + y) * width + x

    def _make_masked_index(self, _side: int, _: int) -> Tensor:
        image_B1 = torch.arange(self.batch_size, device=self.patches.device)[:, None]
        return (image_B1 * self.height * self.width + self.masked_patches).flatten()

    def _make_patch_slot(self, _side: int, _: int) -> Tensor:
        slot = torch.full(self.visible.shape, -1, dtype=torch.int32, device=self.patches.device)
        number = torch.arange(self.patches.numel(), dtype=torch.int32, device=self.patches.device)
        slot.flatten(1).scatter_(1, self.patches, number.view_as(self.patches))
        return slot

    def _make_raster_of_z(self, side: int, _: int) -> Tensor:
        y, x = zorder(side, self.patches.device)
        return y * side + x

    def _make_raster_index(self, side: int, _: int) -> Tensor:
        z_of_raster = torch.argsort(self.raster_of_z(side))
        first_row_N = torch.arange(self.batch_size * self.num_visible, device=self.patches.device) * side * side
        return z_of_raster[:, None] + first_row_N

    def _make_patch_window_index(self, side: int, radius: int) -> Tensor:
        device, z_of_raster = self.patches.device, torch.argsort(self.raster_of_z(side))
        loops = loops_for(self.patches, dtypes=(torch.int64,))
        if loops:
            return loops.window_rows(self.patch_slot(), self.patches, radius, z_of_raster, side)
        offset = torch.arange(-radius, side + radius, device=device)
        place, beside = offset % side, offset // side  # in a patch, and how many patches on
        z = z_of_raster[place[:, None] * side + place]
        reach = -(-radius // side)
        slot, none = self.patch_slot().long(), self.num_sites(side)
        first_BHW = F.pad((slot * side**2).masked_fill_(slot < 0, none), (reach,) * 4, value=none)
        image_N, y_N, x_N = (t[:, None, None] for t in self._patch_corners(1))
        first_NYX = first_BHW[image_N, y_N + reach + beside[:, None], x_N + reach + beside]
        row_NYX = first_NYX.add_(z).clamp_max_(none)
        return row_NYX.flatten(1)


def _count_visible(visible: Tensor, expected: int | None) -> int:
    """K of a mask, or a ValueError that shows the numbers."""
    counts = visible.flatten(1).sum(1)
    if counts.numel() == 0:
        raise ValueError(f"visible holds no image: shape {list(visible.shape)}")
    low, high = (int(n) for n in counts.aminmax())
    if low != high:
        raise ValueError(f"every image of a batch must keep the same number of patches, got {low} to {high}")
    if low == 0:
        raise ValueError("every image must keep at least one patch, got 0 visible patches")
    if expected is not None and low != expected:
        raise ValueError(f"visible keeps {low} patches per image, but num_visible is {expected}")
    return low

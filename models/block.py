"""The ConvNeXt block, V1 and V2, on the site matrix."""

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from fcmae.models.layers import GRN, DepthwiseConv, LayerNorm, PointwiseConv
from fcmae.sparse import GRID, ActiveSites, Backend, grn_mlp


class Mlp(nn.Module):
    """Linear C → 4C, GELU, GRN, Linear 4C → C."""

    def __init__(self, dim: int, use_grn: bool, conv_mlp: bool) -> None:
        super().__init__()
        linear = PointwiseConv if conv_mlp else nn.Linear
        self.fc1 = linear(dim, 4 * dim)
        self.grn = GRN(4 * dim) if use_grn else None
        self.fc2 = linear(4 * dim, dim)

    def forward(self, x: Tensor, batch_size: int, rows: Tensor | None = None, shortcut: Tensor | None = None) -> Tensor:
        """[B·M, C] → the same, added to ``shortcut`` if there is one; ``rows`` of it where they are given.

        A block gives its input as the shortcut where nothing comes between: no LayerScale, no drop path.
        """
        if self.grn is None:
            y = self.fc2(F.gelu(self.fc1(x if rows is None else x.index_select(0, rows))))
            return y if shortcut is None else shortcut + y
        return grn_mlp(
            x, self.fc1.weight.flatten(1), self.fc1.bias, self.grn.weight, self.grn.bias,
            self.fc2.weight.flatten(1), self.fc2.bias, batch_size, rows, shortcut,
        )  # fmt: skip


class Block(nn.Module):
    """Depthwise 7×7 → LayerNorm → MLP (with GRN in V2) → LayerScale (V1) → drop path → + input."""

    def __init__(
        self,
        dim: int,
        *,
        use_grn: bool = True,
        ls_init_value: float | None = None,
        drop_path: float = 0.0,
        conv_mlp: bool = False,
        backend: Backend = GRID,
    ) -> None:
        super().__init__()
        self.conv_dw = DepthwiseConv(dim, backend)
        self.norm = LayerNorm(dim)
        self.mlp = Mlp(dim, use_grn, conv_mlp)
        self.gamma = None if ls_init_value is None else nn.Parameter(torch.full((dim,), ls_init_value))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, sites: ActiveSites, side: int, rows: Tensor | None = None) -> Tensor:
        """[B·K·s·s, C] → the same; ``rows`` of it where they are given, as many of each image, image by image."""
        y = self.norm(self.conv_dw(x, sites, side))
        shortcut = x if rows is None else x.index_select(0, rows)
        if self.gamma is None and isinstance(self.drop_path, nn.Identity):  # nothing between the MLP and the sum
            return self.mlp(y, sites.batch_size, rows, shortcut)
        y = self.mlp(y, sites.batch_size, rows)
        if self.gamma is not None:
            y = y * self.gamma
        # an image is dropped as a whole: timm's DropPath draws once per entry of the first axis
        y = self.drop_path(y.view(sites.batch_size, -1, y.shape[1])).view_as(y)
        return shortcut + y

"""The ConvNeXt block, V1 and V2, on the site matrix."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fcmae.models.layers import PLAIN, DepthwiseConv, LayerNorm, Mlp
from fcmae.sparse.backends import pytorch
from fcmae.sparse.backends.operations import Backend
from fcmae.sparse.sites import ActiveSites

Observer = Callable[[str, Tensor, int], None]
"""(name, tensor, batch size): name is "expansion", "act" or "grn"; the MLP tensor of that name is [B·M, 4C]."""


class Block(nn.Module):
    """Depthwise 7×7 → LayerNorm → MLP (with GRN in V2) → LayerScale (V1) → drop path → + input."""

    ops: Backend = PLAIN

    def __init__(
        self,
        dim: int,
        *,
        use_grn: bool = True,
        ls_init_value: float | None = None,
        drop_path: float = 0.0,
        conv_mlp: bool = False,
    ) -> None:
        super().__init__()
        self.conv_dw = DepthwiseConv(dim)
        self.norm = LayerNorm(dim)
        self.mlp = Mlp(dim, use_grn, conv_mlp)
        self.gamma = None if ls_init_value is None else nn.Parameter(torch.full((dim,), ls_init_value))
        self.drop_prob = drop_path
        self.observers: OrderedDict[int, Observer] = OrderedDict()

    def forward(
        self,
        x: Tensor,
        sites: ActiveSites,
        side: int,
        needed: ActiveSites | None = None,
        kept: Tensor | None = None,
    ) -> Tensor:
        """[B·K·s·s, C] → the same.

        Args:
            x: features at ``sites``.
            sites: the active sites.
            side: s.
            needed: compute and return the output only at these sites, [B·K'·s·s, C]. Only for blocks on a full grid
                with one site per patch, such as the decoder's.
            kept: from :meth:`draw_kept`; None: drawn here.
        """
        y = self.norm(self.conv_dw(x, sites, side))
        rows = None if needed is None else needed.grid_index(side)
        shortcut = x if rows is None else x.index_select(0, rows)
        if not self.drop_prob:  # the MLP can add the shortcut itself
            return self._mlp(y, sites.batch_size, rows, shortcut)
        y = self._mlp(y, sites.batch_size, rows, None)
        return shortcut + self.drop(y.view(sites.batch_size, -1, y.shape[1]), kept).view_as(y)

    def draw_kept(self, batch_size: int, device: torch.device) -> Tensor | None:
        """[B] of 0 and 1: the images whose path drop path keeps. None: all.

        Apart from the forward pass, because activation checkpointing repeats that with the same draws.
        """
        if not self.drop_prob or not self.training:
            return None
        return torch.empty(batch_size, device=device).bernoulli_(1 - self.drop_prob)

    def drop(self, y: Tensor, kept: Tensor | None = None) -> Tensor:
        """[B, …] with whole images set to 0 and the others scaled up, as timm's DropPath does."""
        kept = self.draw_kept(len(y), y.device) if kept is None else kept
        return y if kept is None else y * (kept.to(y.dtype) / (1 - self.drop_prob)).view(-1, *[1] * (y.ndim - 1))

    def __getstate__(self) -> dict[str, Any]:
        """Observers are of this network, not of its copies."""
        return {**self.__dict__, "observers": OrderedDict()}

    def observe(self, observer: Observer) -> RemovableHandle:
        """Call ``observer`` with the MLP's hidden tensors in each forward pass, until the handle is removed.

        While observed, the MLP runs operation by operation in plain PyTorch.
        """
        handle = RemovableHandle(self.observers)
        self.observers[handle.id] = observer
        return handle

    def _mlp(self, x: Tensor, batch_size: int, rows: Tensor | None, shortcut: Tensor | None) -> Tensor:
        weights = self.mlp.weights()
        if (
            self.gamma is not None
        ):  # into the last Linear layer: a pass less. (float16 loses a γ of 1e-6 here: 1e-6 of the shortcut)
            w2, b2 = self.gamma[:, None] * weights.fc2_weight, self.gamma * weights.fc2_bias
            weights = weights._replace(fc2_weight=w2, fc2_bias=b2)
        if not self.observers:
            return self.ops.mlp(x, weights, batch_size, rows, shortcut)

        def see(name: str, hidden: Tensor) -> None:
            for observer in self.observers.values():
                observer(name, hidden, batch_size)

        return pytorch.mlp(x, weights, batch_size, rows, shortcut, see=see)

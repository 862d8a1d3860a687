"""The decoder: fills masked patches with mask tokens, runs ConvNeXt V2 blocks on the full grid, predicts pixels."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from fcmae.models.block import Block
from fcmae.models.layers import PLAIN, init_weights, use_backend_anew
from fcmae.sparse.backends.operations import Backend
from fcmae.sparse.sites import ActiveSites


class Decoder(nn.Module):
    """1×1 projection, mask token, ``depth`` dense blocks of width ``dim``, 1×1 to ``out_dim`` values per patch.

    The patch grid is also a site matrix, with one site per patch and every patch visible, so the encoder's block is
    reused.
    """

    ops: Backend = PLAIN

    def __init__(self, in_dim: int, dim: int, depth: int, out_dim: int, backend: str = "auto") -> None:
        super().__init__()
        self.backend_name = backend
        self.proj = nn.Linear(in_dim, dim)
        self.mask_token = nn.Parameter(torch.empty(dim))
        self.blocks = nn.ModuleList(Block(dim) for _ in range(depth))
        self.pred = nn.Linear(dim, out_dim)
        self.apply(init_weights)
        nn.init.normal_(self.mask_token, std=0.02)
        use_backend_anew(self)
        self.register_load_state_dict_post_hook(use_backend_anew)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Moving the module (``.to``, ``.cuda``) also selects the backend for the new device."""
        super()._apply(fn, recurse)
        use_backend_anew(self)
        return self

    def forward(self, x: Tensor, sites: ActiveSites, masked_only: bool = False) -> Tensor:
        """[B·K, C_enc], the encoder's features of the visible patches → [B, h·w, out_dim].

        With ``masked_only`` only the masked patches are predicted, [B, h·w − K, out_dim] in raster order, and the last
        block skips the visible patches.
        """
        batch, height, width = sites.grid_shape(side=1)
        x = self.proj(x)
        tokens = self.mask_token.to(x.dtype).expand(batch * height * width, -1)
        tokens = tokens.index_copy(0, sites.grid_index(side=1), x)
        everywhere = ActiveSites.full(batch, height, width, x.device)
        to_predict = sites.complement() if masked_only else None
        for number, block in enumerate(self.blocks, start=1):
            is_last = number == len(self.blocks)
            tokens = block(tokens, everywhere, side=1, needed=to_predict if is_last else None)
        if to_predict is not None and not self.blocks:
            tokens = tokens.index_select(0, to_predict.grid_index(side=1))
        return self.pred(tokens).view(batch, -1, self.pred.out_features)

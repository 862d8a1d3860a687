"""The decoder: mask tokens where nothing was seen, ConvNeXt V2 blocks on the full patch grid, pixels out."""

import torch
from torch import Tensor, nn

from fcmae.models.block import Block
from fcmae.models.layers import init_weights
from fcmae.sparse import ActiveSites


class Decoder(nn.Module):
    """1×1 projection, mask token, ``depth`` dense blocks of width ``dim``, 1×1 to ``out_dim`` values a patch.

    The patch grid is a site matrix too, one site a patch and every patch visible, so the encoder's block serves here.
    """

    def __init__(self, in_dim: int, dim: int, depth: int, out_dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_dim, dim)
        self.mask_token = nn.Parameter(torch.empty(dim))
        self.blocks = nn.ModuleList(Block(dim) for _ in range(depth))
        self.pred = nn.Linear(dim, out_dim)
        self.apply(init_weights)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, x: Tensor, sites: ActiveSites, masked_only: bool = False) -> Tensor:
        """[B·K, C_enc], the encoder's features of the visible patches → [B, h·w, out_dim].

        With ``masked_only`` the masked patches' alone, [B, h·w − K, out_dim] in raster order.
        """
        batch, height, width = sites.grid_shape(side=1)
        x = self.proj(x)
        tokens = self.mask_token.to(x.dtype).expand(batch * height * width, -1)
        tokens = tokens.index_copy(0, sites.grid_index(side=1), x)
        everywhere = ActiveSites.full(batch, height, width, x.device)
        rows = sites.masked_index() if masked_only else None
        for number, block in enumerate(self.blocks, start=1):
            # the last one's second Linear, too, is needed for what is asked for alone
            tokens = block(tokens, everywhere, side=1, rows=rows if number == len(self.blocks) else None)
        if rows is not None and not self.blocks:
            tokens = tokens.index_select(0, rows)
        return self.pred(tokens).view(batch, -1, self.pred.out_features)

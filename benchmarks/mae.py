"""The peer: a ViT masked autoencoder as published (arXiv 2111.06377), built from timm's blocks.

The encoder runs on 25% of the tokens; the decoder is 8 blocks of width 512 on all of them.
"""

import timm
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from fcmae.models.fcmae import NORM_EPS
from fcmae.models.patches import patchify
from fcmae.sparse.backends.pytorch import patch_mean_std


class ViTMAE(nn.Module):
    """Images → loss: mean squared error over the masked, normalized patches."""

    def __init__(self, name: str, img_size: int, mask_ratio: float = 0.75, dim: int = 512, depth: int = 8) -> None:
        super().__init__()
        self.encoder = timm.create_model(name, num_classes=0, img_size=img_size)
        self.patch = self.encoder.patch_embed.patch_size[0]
        num_patches = self.encoder.patch_embed.num_patches
        self.keep = round(num_patches * (1 - mask_ratio))
        self.project = nn.Linear(self.encoder.embed_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.position = nn.Parameter(torch.randn(1, num_patches + 1, dim) * 0.02)
        self.blocks = nn.Sequential(*(Block(dim, num_heads=16, qkv_bias=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.pred = nn.Linear(dim, self.patch**2 * 3)

    def forward(self, images: Tensor, order: Tensor) -> Tensor:
        """``order`` int64 [B, L]: a permutation of each image's patches, kept ones first."""
        encoder = self.encoder
        image_B1 = torch.arange(len(images), device=images.device)[:, None]
        tokens = encoder.patch_embed(images) + encoder.pos_embed[:, 1:]
        first = (encoder.cls_token + encoder.pos_embed[:, :1]).expand(len(images), -1, -1)
        seen = torch.cat([first, tokens[image_B1, order[:, : self.keep]]], dim=1)
        seen = self.project(encoder.norm(encoder.blocks(seen)))
        hidden = self.mask_token.to(seen.dtype).expand(len(images), order.shape[1] - self.keep, -1)
        all_tokens = torch.cat([seen[:, 1:], hidden], dim=1)[image_B1, order.argsort(1)]
        x = self.blocks(torch.cat([seen[:, :1], all_tokens], dim=1) + self.position)
        pred = self.pred(self.norm(x[:, 1:]))
        target = patchify(images, self.patch)
        mean, std = patch_mean_std(target, NORM_EPS)
        masked = order[:, self.keep :]
        return (pred.float() - (target - mean) / std)[image_B1, masked].square().mean()

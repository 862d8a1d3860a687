"""The baseline: the encoder as masked dense convolution, channels-last. Same parameters, every position computed.

The mask is applied after each operation that would spread values or biases into masked positions, so the results equal
the sparse encoder's; nothing else is added. GRN's sums over the grid are then sums over active sites.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fcmae.models.block import Block
from fcmae.models.layers import GRN
from fcmae.models.patches import enlarge_mask
from fcmae.sparse.backends.operations import check_images
from fcmae.sparse.backends.pytorch import GRN_EPS
from fcmae.sparse.sites import ActiveSites


def masked_forward(stem: Any, stages: Any, images: Tensor, sites: ActiveSites) -> Tensor:
    """[B, C, H, W] → the last stage's features [B, C_last, h, w], zero where not visible."""
    (conv, *norms), visible = stem, sites.visible
    patch_size = conv.stride[0] * 2 ** (len(stages) - 1)
    check_images(images, sites, patch_size)
    seen = enlarge_mask(visible, patch_size)
    x = images.masked_fill(~seen, 0).contiguous(memory_format=torch.channels_last)
    x = _conv(conv, x.permute(0, 2, 3, 1))
    for norm in norms:
        x = norm(x)
    x = _masked(x, visible)
    for stage in stages:
        if stage.downsample:
            norm, conv = stage.downsample
            x = _masked(_conv(conv, norm(x)), visible)
        for block in stage.blocks:
            if stage.recompute and torch.is_grad_enabled():
                kept = block.draw_kept(len(x), x.device)
                x = checkpoint(_block, block, x, visible, kept, use_reentrant=False, preserve_rng_state=False)
            else:
                x = _block(block, x, visible)
    return x.permute(0, 3, 1, 2)


def _block(block: Block, x: Tensor, visible: Tensor, kept: Tensor | None = None) -> Tensor:
    y = block.norm(_conv(block.conv_dw, x))
    y = _masked(F.gelu(block.mlp.fc1(y)), visible)
    if isinstance(block.mlp.grn, GRN):
        gamma, beta = block.mlp.grn.weight, block.mlp.grn.bias
        norm = y.norm(dim=(1, 2), keepdim=True, dtype=torch.promote_types(y.dtype, torch.float32))
        scale = 1 + gamma * (norm / (norm.mean(-1, keepdim=True) + GRN_EPS))
        y = torch.addcmul(beta.to(y.dtype), y, scale.to(y.dtype))
    y = block.mlp.fc2(y)
    if block.gamma is not None:
        y = y * block.gamma
    return x + _masked(block.drop(y, kept), visible)


def _conv(conv: torch.nn.Conv2d, x_BHWC: Tensor) -> Tensor:
    """Dense convolution that bypasses the layer's own forward; the permuted [B, H, W, C] is channels-last in memory."""
    x = x_BHWC.permute(0, 3, 1, 2)
    return F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding, groups=conv.groups).permute(0, 2, 3, 1)


def _masked(x_BHWC: Tensor, visible: Tensor) -> Tensor:
    """``x`` with zeros where not visible; the mask is enlarged to its resolution and cast to its dtype."""
    mask = enlarge_mask(visible, x_BHWC.shape[1] // visible.shape[1])
    return x_BHWC * mask.permute(0, 2, 3, 1).to(x_BHWC.dtype)

"""The baseline: the encoder as masked dense convolution, channels-last. Same parameters, every position computed.

After each operation that would spread values, or biases, into masked positions, the mask is multiplied in, so that the
numbers equal the sparse encoder's; nothing else is added. GRN's sums over the grid are then sums over active sites.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fcmae.models.block import Block
from fcmae.models.layers import GRN
from fcmae.sparse.response_norm import EPS


def masked_forward(stem: Any, stages: Any, images: Tensor, visible: Tensor) -> Tensor:
    """[B, C, H, W] and [B, h, w] → the last stage's features [B, C_last, h, w], zero where not visible."""
    conv, norm = stem
    x = (images * _blow_up(visible, images.shape[2] // visible.shape[1])).contiguous(memory_format=torch.channels_last)
    x = norm(_conv(conv, x.permute(0, 2, 3, 1)))
    x = x * _mask(visible, x)
    for stage in stages:
        if stage.downsample:
            norm, conv = stage.downsample
            x = _conv(conv, norm(x))
            x = x * _mask(visible, x)
        for block in stage.blocks:
            x = _block(block, x, _mask(visible, x))
    return x.permute(0, 3, 1, 2)


def _block(block: Block, x: Tensor, m: Tensor) -> Tensor:
    y = block.norm(_conv(block.conv_dw, x))
    y = F.gelu(block.mlp.fc1(y)) * m
    if isinstance(block.mlp.grn, GRN):
        norm = y.norm(dim=(1, 2), keepdim=True)
        y = y + block.mlp.grn.bias + block.mlp.grn.weight * y * (norm / (norm.mean(-1, keepdim=True) + EPS))
    y = block.mlp.fc2(y)
    if block.gamma is not None:
        y = y * block.gamma
    return x + block.drop_path(y) * m


def _conv(conv: torch.nn.Conv2d, x_BHWC: Tensor) -> Tensor:
    """A dense convolution, whatever the layer's own forward does; [B, H, W, C] is channels-last to the library."""
    x = x_BHWC.permute(0, 3, 1, 2)
    return F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding, groups=conv.groups).permute(0, 2, 3, 1)


def _mask(visible: Tensor, x_BHWC: Tensor) -> Tensor:
    """[B, H, W, 1] at the resolution of ``x``."""
    return _blow_up(visible, x_BHWC.shape[1] // visible.shape[1]).permute(0, 2, 3, 1).to(x_BHWC.dtype)


def _blow_up(visible: Tensor, factor: int) -> Tensor:
    """[B, h, w] → [B, 1, h·factor, w·factor]."""
    return visible.repeat_interleave(factor, 1).repeat_interleave(factor, 2).unsqueeze(1)

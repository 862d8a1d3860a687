"""The oracle: every sparse operation by its literal definition, m · f(m · x) on dense tensors, in any dtype.

Slow and plain on purpose, and it shares nothing with the fast path, not even the index of sites. ``m`` is ``visible``
enlarged to the resolution at hand. Inputs are dense [B, C, H, W]; what a masked position holds must not matter.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def upsample_mask(visible: Tensor, side: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """[B, h, w] → m, [B, 1, h·s, w·s] of zeros and ones."""
    return visible.repeat_interleave(side, 1).repeat_interleave(side, 2).unsqueeze(1).to(dtype)


def keep(x: Tensor, m: Tensor) -> Tensor:
    """m · x, and exactly zero where m is zero even if x is not finite there."""
    return torch.where(m.bool(), x, torch.zeros_like(x))


def stem(images: Tensor, weight: Tensor, bias: Tensor | None, visible: Tensor, side: int) -> Tensor:
    """Masked convolution with kernel = stride: [B, C, H, W] → [B, n, h·s, w·s]."""
    stride = weight.shape[-1]
    pixels = upsample_mask(visible, side * stride, images.dtype)
    out = F.conv2d(keep(images, pixels), weight, bias, stride=stride)
    return keep(out, upsample_mask(visible, side, images.dtype))


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None, visible: Tensor, side: int) -> Tensor:
    """m · conv(m · x), one kernel per channel, zero padding."""
    m = upsample_mask(visible, side, x.dtype)
    return keep(F.conv2d(keep(x, m), weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0]), m)


def downsample(x: Tensor, weight: Tensor, bias: Tensor | None, visible: Tensor, side: int) -> Tensor:
    """2×2 stride-2 convolution from s to s/2 sites along a patch."""
    out = F.conv2d(keep(x, upsample_mask(visible, side, x.dtype)), weight, bias, stride=2)
    return keep(out, upsample_mask(visible, side // 2, x.dtype))


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, m: Tensor) -> Tensor:
    """A Linear layer at every position; ``weight`` is [out, in] or [out, in, 1, 1]."""
    return keep(F.conv2d(x, weight.view(*weight.shape[:2], 1, 1), bias), m)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, m: Tensor, eps: float = 1e-6) -> Tensor:
    """Over the channels of each position."""
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).square().mean(1, keepdim=True)
    normed = (x - mean) / (variance + eps).sqrt()
    return keep(normed * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1), m)


def grn(x: Tensor, weight: Tensor, bias: Tensor, m: Tensor, eps: float = 1e-6) -> Tensor:
    """γ · (X · n) + β + X, the norm of each channel over an image's active positions, one image at a time."""
    out = []
    for image, where in zip(keep(x, m), m.bool(), strict=True):
        norms = image[:, where[0]].norm(dim=1)  # [C, positions] → [C]
        n = norms / (norms.mean() + eps)
        out.append(weight.view(-1, 1, 1) * (image * n.view(-1, 1, 1)) + bias.view(-1, 1, 1) + image)
    return keep(torch.stack(out), m)

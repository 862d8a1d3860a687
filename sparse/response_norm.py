"""Global response normalization over the sites of each image (ConvNeXt V2, arXiv 2301.00808, section 3.3)."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

EPS = 1e-6


def grn(x: Tensor, weight: Tensor, bias: Tensor, batch_size: int, eps: float = EPS) -> Tensor:
    """γ · (X · n) + β + X with n = g / (mean over channels of g + eps), g = ‖X‖₂ over the image's own sites.

    The official code takes the norm over the sites of the whole batch; here, as in the paper, images do not mix.

    Args:
        x: [B·M, C], the M sites of an image together.
        weight: γ, [C].
        bias: β, [C].
        batch_size: B.
        eps: added to the mean norm.

    Returns:
        [B·M, C] in the dtype of ``x``; statistics are computed in float32 (float64 for float64).

    Raises:
        ValueError: γ or β of another length.
    """
    if weight.shape != (x.shape[-1],) or bias.shape != weight.shape:
        raise ValueError(f"γ and β must be [{x.shape[-1]}], got {list(weight.shape)} and {list(bias.shape)}")
    return _GRN.apply(x.reshape(batch_size, -1, x.shape[-1]), weight, bias, eps).view_as(x)


class _GRN(torch.autograd.Function):
    """y = a·x + β, a = 1 + γ·n. Written out: only x is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x_BMC: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        norm_B1C = response_norm(x_BMC)
        ctx.save_for_backward(x_BMC, weight, bias, norm_B1C)
        ctx.eps = eps
        return torch.addcmul(bias.to(x_BMC.dtype), x_BMC, scale_of(weight, norm_B1C, eps).to(x_BMC.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_BMC: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x_BMC, weight, bias, norm_B1C = ctx.saved_tensors
        wide = norm_B1C.dtype
        dyx_B1C, dbias_B1C = (t.sum(1, keepdim=True, dtype=wide) for t in (dy_BMC * x_BMC, dy_BMC))
        through_norm = through_norm_of(weight * dyx_B1C, norm_B1C, x_BMC.dtype, ctx.eps)
        scale = scale_of(weight, norm_B1C, ctx.eps).to(dy_BMC.dtype)
        dx = torch.addcmul(dy_BMC * scale, x_BMC, through_norm)
        dweight = (dyx_B1C * normed_of(norm_B1C, ctx.eps)).sum((0, 1)).to(weight.dtype)
        return dx, dweight, dbias_B1C.sum((0, 1)).to(bias.dtype), None


def normed_of(norm_B1C: Tensor, eps: float = EPS) -> Tensor:
    """n = g / (mean over channels of g + eps)."""
    return norm_B1C / (norm_B1C.mean(dim=2, keepdim=True) + eps)


def scale_of(weight: Tensor, norm_B1C: Tensor, eps: float = EPS) -> Tensor:
    """a = 1 + γ · n, what GRN multiplies each channel of an image with."""
    return 1 + weight * normed_of(norm_B1C, eps)


def through_norm_of(d_normed: Tensor, norm_B1C: Tensor, dtype: torch.dtype, eps: float = EPS) -> Tensor:
    """What of a gradient to n comes to x, in units of x: dg / g, taken as 0 at g = 0; in ``dtype``.

    n = g/m, m = mean(g) + eps, so dg = dn/m − mean over channels of (dn · n/m); and d‖x‖/dx = x/‖x‖.
    """
    mean_B11 = norm_B1C.mean(dim=2, keepdim=True) + eps
    d_norm = (d_normed - (d_normed * norm_B1C / mean_B11).mean(dim=2, keepdim=True)) / mean_B11
    through = torch.where(norm_B1C > 0, d_norm / norm_B1C, 0.0)
    if dtype == torch.float16:  # a channel that is nearly dead: beyond its range, and ∞ · 0 would be NaN
        through = through.clamp(torch.finfo(dtype).min, torch.finfo(dtype).max)
    return through.to(dtype)


def response_norm(x_BMC: Tensor) -> Tensor:
    """‖x‖₂ over the sites of each image, [B, 1, C], accumulated in float32 or wider."""
    wide = torch.promote_types(x_BMC.dtype, torch.float32)
    if x_BMC.device.type == "cpu" and x_BMC.dtype == wide:
        # the library's norm over a middle axis is not vectorized on a CPU; this took half its time
        return x_BMC.square().sum(1, keepdim=True).sqrt()
    return torch.linalg.vector_norm(x_BMC, dim=1, keepdim=True, dtype=wide)

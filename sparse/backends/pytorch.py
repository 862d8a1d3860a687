"""The ``torch`` backend: every sparse operation in plain PyTorch, on any device. Other backends equal it.

Shape letters as in :mod:`fcmae.sparse.sites`; H is the width of the MLP's hidden layer, M the sites of an image.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.autograd.function import once_differentiable

from fcmae.sparse.backends.operations import MlpWeights, check_depthwise, check_images, check_mlp
from fcmae.sparse.grid import gather_from_grid, grid_index, scatter_to_grid
from fcmae.sparse.sites import ActiveSites

GRN_EPS = 1e-6


def missing_on(_device: torch.device) -> str | None:
    """Nothing: PyTorch runs everywhere."""
    return None


def stem_rows(images: Tensor, sites: ActiveSites, side: int, stride: int) -> Tensor:
    """The visible pixels, one row per site, ready for the stem's GEMM. Masked pixels are never read.

    Args:
        images: [B, C, h·s·p, w·s·p].
        sites: the visible patches.
        side: s, sites along one side of a patch after the stem; a power of two.
        stride: p, kernel and stride of the stem.

    Returns:
        [B·K·s·s, C·p·p], columns in the order of a convolution's weight (channel, y, x).

    Raises:
        ValueError: the images do not fit the patch grid.
    """
    check_images(images, sites, side * stride)
    bits = range(side.bit_length() - 1)[::-1]  # each axis of s = 2ⁿ sites is split into n bits, which interleave
    ys, xs = " ".join(f"y{b}" for b in bits), " ".join(f"x{b}" for b in bits)
    zorder = " ".join(f"y{b} x{b}" for b in bits)
    sizes = {f"{axis}{b}": 2 for b in bits for axis in "yx"}
    patches_NCYX = _patches(images, sites, side * stride)
    return rearrange(patches_NCYX, f"n c ({ys} p) ({xs} q) -> (n {zorder}) (c p q)", p=stride, q=stride, **sizes)


def patch_pixels(images: Tensor, sites: ActiveSites, patch_size: int, norm_eps: float | None) -> Tensor:
    """The pixels of each patch of ``sites``, the loss's target.

    Args:
        images: [B, C, h·p, w·p].
        sites: the patches, here usually the masked ones.
        patch_size: p.
        norm_eps: normalize each patch by its own mean and √(unbiased variance + norm_eps); None: leave it as it is.

    Returns:
        [B·K, p·p·C] in float32 or wider, values of a patch ordered (y, x, channel).

    Raises:
        ValueError: the images do not fit the patch grid.
    """
    check_images(images, sites, patch_size)
    pixels = _patches(images, sites, patch_size).permute(0, 2, 3, 1).flatten(1)
    pixels = pixels.to(torch.promote_types(pixels.dtype, torch.float32))
    if norm_eps is None:
        return pixels
    mean, std = patch_mean_std(pixels, norm_eps)
    return (pixels - mean) / std


def patch_mean_std(patches: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and √(unbiased variance + eps) of each patch over all its values: [..., p·p·C] → two [..., 1] (MAE)."""
    mean = patches.mean(-1, keepdim=True)
    variance = (patches - mean).square().sum(-1, keepdim=True) / (patches.shape[-1] - 1)  # torch.var is slow on CPUs
    return mean, (variance + eps).sqrt()


def _patches(images: Tensor, sites: ActiveSites, size: int) -> Tensor:
    """[B, C, h·size, w·size] → [B·K, C, size, size]."""
    grid_BCyYxX = images.unflatten(3, (sites.width, size)).unflatten(2, (sites.height, size))
    image_B1 = torch.arange(len(images), device=images.device)[:, None]
    return grid_BCyYxX[image_B1, :, sites.patches // sites.width, :, sites.patches % sites.width].flatten(0, 1)


def downsample(x: Tensor, weight: Tensor, bias: Tensor | None, _sites: ActiveSites, _side: int) -> Tensor:
    """2×2 stride-2 convolution. Its four inputs are adjacent rows in Z-order, so it is a view and one GEMM.

    Args:
        x: [B·K·s·s, C_in], s even.
        weight: [C_out, C_in, 2, 2], a dense convolution's.
        bias: [C_out] or None.

    Returns:
        [B·K·(s/2)·(s/2), C_out].

    Raises:
        ValueError: a kernel of another size.
    """
    if weight.shape[2:] != (2, 2):
        raise ValueError(f"downsampling takes a 2×2 kernel, got {list(weight.shape)}")
    merged = x.reshape(x.shape[0] // 4, 4 * x.shape[1])  # columns (y, x, C_in)
    return F.linear(merged, rearrange(weight, "o i y x -> o (y x i)"), bias)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Over the last axis; [..., C] → the same."""
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None, sites: ActiveSites, side: int) -> Tensor:
    """Submanifold depthwise convolution, stride 1, zero padding, output sites = input sites: m · conv(m · x).

    Scatters to the grid, convolves, gathers: an empty position adds nothing.

    Args:
        x: [B·K·s·s, C].
        weight: [C, 1, k, k], k odd; a dense convolution's.
        bias: [C] or None.
        sites: the active sites.
        side: s.

    Returns:
        [B·K·s·s, C]. Under autocast, in its dtype.

    Raises:
        ValueError: an even or oblong kernel, or rows or channels that do not fit.
    """
    check_depthwise(x, weight, bias, sites, side)
    x, weight, bias = autocast_args(x, weight, bias)
    return _DepthwiseConv.apply(x, weight, bias, grid_index(sites, side), sites.grid_shape(side))


class _DepthwiseConv(torch.autograd.Function):
    """Keeps the site matrix for the backward pass, not the grid."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, index: Tensor | None, shape: tuple[int, int, int]
    ) -> Tensor:
        ctx.save_for_backward(x, weight, index)
        ctx.shape = shape
        return _convolve_on_grid(x, weight, bias, index, shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, index = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        dx = dweight = dbias = None
        if needs_x:  # neighborhood is symmetric, so dgrad is a convolution with the kernel rotated by 180°
            dx = _convolve_on_grid(dy, weight.flip(2, 3), None, index, ctx.shape)
        if needs_weight:
            x_BCHW, dy_BCHW = (scatter_to_grid(t, index, ctx.shape).permute(0, 3, 1, 2) for t in (x, dy))
            padding = [weight.shape[-1] // 2] * 2
            _, dweight, _ = torch.ops.aten.convolution_backward(
                dy_BCHW, x_BCHW, weight, None, [1, 1], padding, [1, 1], False, [0, 0], len(weight), [False, True, False]
            )
        if needs_bias:
            dbias = dy.sum(0, dtype=torch.promote_types(dy.dtype, torch.float32)).to(dy.dtype)
        return dx, dweight, dbias, None, None


def _convolve_on_grid(
    x: Tensor, weight: Tensor, bias: Tensor | None, index: Tensor | None, shape: tuple[int, int, int]
) -> Tensor:
    x_BCHW = scatter_to_grid(x, index, shape).permute(0, 3, 1, 2)
    out_BCHW = F.conv2d(x_BCHW, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))
    return gather_from_grid(out_BCHW.permute(0, 2, 3, 1), index)


def mlp(
    x: Tensor, weights: MlpWeights, batch_size: int, rows: Tensor | None = None, shortcut: Tensor | None = None,
    see: Callable[[str, Tensor], None] | None = None,
) -> Tensor:  # fmt: skip
    """shortcut + fc2(grn(gelu(fc1(x)))).

    Args:
        x: [B·M, C], the M sites of an image together.
        weights: the parameters; GRN may be missing.
        batch_size: B.
        rows: int64 [R], the rows of the result that are wanted, each once; None: all. GRN looks at every site.
        shortcut: added to the result, of its shape; None: nothing.
        see: called with the hidden tensors as they arise, [B·M, H]: "expansion", "act", and "grn" where there is GRN.
            (Only this backend has it; others do not compute these tensors one by one.)

    Returns:
        [B·M, C_out], or [R, C_out]. Under autocast, in its dtype, or in the shortcut's if that is wider.

    Raises:
        ValueError: a Linear layer without a bias, a vector of another length than H, or a shortcut of another shape
            than the result.
    """
    check_mlp(x, weights, rows, shortcut)
    if rows is not None and weights.grn_weight is None and see is None:  # no site looks at another
        x, rows = x.index_select(0, rows), None
    hidden = F.linear(x, weights.fc1_weight, weights.fc1_bias)
    if see:
        see("expansion", hidden)
    hidden = F.gelu(hidden)
    if see:
        see("act", hidden)
    if weights.grn_weight is not None and weights.grn_bias is not None:
        hidden = grn(hidden, weights.grn_weight, weights.grn_bias, batch_size)
        if see:
            see("grn", hidden)
    out = F.linear(hidden if rows is None else hidden.index_select(0, rows), weights.fc2_weight, weights.fc2_bias)
    return out if shortcut is None else shortcut + out


def grn(x: Tensor, weight: Tensor, bias: Tensor, batch_size: int, eps: float = GRN_EPS) -> Tensor:
    """Global response normalization over each image's sites (ConvNeXt V2, arXiv 2301.00808, section 3.3).

    γ · (X · n) + β + X with n = g / (mean over channels of g + eps), g = ‖X‖₂ over the image's own sites. (The official
    code takes the norm over the sites of the whole batch; here, as in the paper, images do not mix.)

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
    """y = a·x + β, a = 1 + γ·n. Written out, so that only x is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x_BMC: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        norm_B1C = _response_norm(x_BMC)
        ctx.save_for_backward(x_BMC, weight, bias, norm_B1C)
        ctx.eps = eps
        scale = 1 + weight * (norm_B1C / (norm_B1C.mean(2, keepdim=True) + eps))
        return torch.addcmul(bias.to(x_BMC.dtype), x_BMC, scale.to(x_BMC.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_BMC: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """n = g/m, m = mean(g) + eps, so dg = dn/m − mean over channels of (dn · n/m); and d‖x‖/dx = x/‖x‖."""
        x_BMC, weight, bias, norm_B1C = ctx.saved_tensors
        wide = norm_B1C.dtype
        dy_x_B1C, dbias_B1C = (t.sum(1, keepdim=True, dtype=wide) for t in (dy_BMC * x_BMC, dy_BMC))
        mean_B11 = norm_B1C.mean(2, keepdim=True) + ctx.eps
        normed_B1C, d_normed_B1C = norm_B1C / mean_B11, weight * dy_x_B1C
        d_norm_B1C = (d_normed_B1C - (d_normed_B1C * norm_B1C / mean_B11).mean(2, keepdim=True)) / mean_B11
        through_B1C = torch.where(norm_B1C > 0, d_norm_B1C / norm_B1C, 0.0)  # taken as 0 at g = 0
        if x_BMC.dtype == torch.float16:  # a channel that is nearly dead: beyond its range, and ∞ · 0 would be NaN
            limits = torch.finfo(torch.float16)
            through_B1C = through_B1C.clamp(limits.min, limits.max)
        scale_B1C = (1 + weight * normed_B1C).to(dy_BMC.dtype)
        dx = torch.addcmul(dy_BMC * scale_B1C, x_BMC, through_B1C.to(x_BMC.dtype))
        dweight = (dy_x_B1C * normed_B1C).sum((0, 1)).to(weight.dtype)
        return dx, dweight, dbias_B1C.sum((0, 1)).to(bias.dtype), None


def _response_norm(x_BMC: Tensor) -> Tensor:
    """‖x‖₂ over the sites of each image, [B, 1, C], accumulated in float32 or wider."""
    wide = torch.promote_types(x_BMC.dtype, torch.float32)
    if x_BMC.device.type == "cpu" and x_BMC.dtype == wide:
        return x_BMC.square().sum(1, keepdim=True).sqrt()  # vector_norm over a middle axis is not vectorized on CPUs
    return torch.linalg.vector_norm(x_BMC, dim=1, keepdim=True, dtype=wide)


_Bias = TypeVar("_Bias", Tensor, Tensor | None)


def autocast_args(x: Tensor, weight: Tensor, bias: _Bias) -> tuple[Tensor, Tensor, _Bias]:
    """In autocast's dtype, where it is on."""
    if not torch.is_autocast_enabled(x.device.type):
        return x, weight, bias
    dtype = torch.get_autocast_dtype(x.device.type)
    return x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)

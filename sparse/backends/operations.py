"""What a backend is: one record of functions, and the checks of their arguments that all backends share."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fcmae.sparse.sites import ActiveSites


class MlpWeights(NamedTuple):
    """Parameters of Linear C → H, GELU, GRN, Linear H → C_out."""

    fc1_weight: Tensor
    """[H, C]."""
    fc1_bias: Tensor
    """[H]."""
    grn_weight: Tensor | None
    """γ, [H]; None: no GRN."""
    grn_bias: Tensor | None
    """β, [H]; None: no GRN."""
    fc2_weight: Tensor
    """[C_out, H]."""
    fc2_bias: Tensor
    """[C_out]."""


Convolution = Callable[[Tensor, Tensor, Tensor | None, ActiveSites, int], Tensor]


class Backend(NamedTuple):
    """Every sparse operation; :mod:`fcmae.sparse.backends.pytorch` documents each."""

    name: str
    stem_rows: Callable[[Tensor, ActiveSites, int, int], Tensor]
    """(images, sites, side, stride) → [B·K·s·s, C·p·p]."""
    depthwise_conv: Convolution
    """(x, weight, bias, sites, side) → the shape of x."""
    layer_norm: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    """(x, weight, bias, eps) → the shape of x."""
    mlp: Callable[..., Tensor]
    """(x, weights, batch_size, rows=None, shortcut=None) → [B·M, C_out], or [R, C_out]."""
    downsample: Convolution
    """(x, weight, bias, sites, side) → [rows / 4, C_out]; ``side`` is that of ``x``."""
    patch_pixels: Callable[[Tensor, ActiveSites, int, float | None], Tensor]
    """(images, sites, patch_size, norm_eps) → [B·K, p·p·C]."""
    missing_on: Callable[[torch.device], str | None]
    """What the backend lacks to run on a device, in words; None: nothing."""


OPERATIONS = Backend._fields[1:]


def check_images(images: Tensor, sites: ActiveSites, patch_size: int) -> None:
    """ValueError unless images are [B, C, h·p, w·p], for a mask [B, h, w] and patches of p × p pixels."""
    expected = (sites.batch_size, sites.height * patch_size, sites.width * patch_size)
    if images.ndim != 4 or (images.shape[0], *images.shape[2:]) != expected:
        raise ValueError(
            f"images {list(images.shape)} do not fit visible {list(sites.visible.shape)}: with patches of "
            f"{patch_size}×{patch_size} pixels they must be [{expected[0]}, C, {expected[1]}, {expected[2]}]"
        )


def check_depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, sites: ActiveSites, side: int) -> None:
    """ValueError unless this is a square depthwise kernel of odd size, its bias, and features of these sites."""
    channels, one, kernel, kernel_w = weight.shape
    if one != 1 or kernel != kernel_w or kernel % 2 == 0:
        raise ValueError(f"a depthwise kernel is [C, 1, k, k] with odd k, got {list(weight.shape)}")
    if x.shape != (sites.num_sites(side), channels):
        raise ValueError(f"features must be [{sites.num_sites(side)}, {channels}], got {list(x.shape)}")
    if bias is not None and bias.shape != (channels,):
        raise ValueError(f"the bias must be [{channels}], got {list(bias.shape)}")


def check_mlp(x: Tensor, weights: MlpWeights, rows: Tensor | None, shortcut: Tensor | None) -> None:
    """ValueError unless both biases are there, γ and β have length H, and the shortcut has the shape of the result."""
    if weights.fc1_bias is None or weights.fc2_bias is None:
        raise ValueError("both Linear layers need a bias")
    hidden = weights.fc1_weight.shape[:1]
    for name, vector in (("first bias", weights.fc1_bias), ("γ", weights.grn_weight), ("β", weights.grn_bias)):
        if vector is not None and vector.shape != hidden:
            raise ValueError(f"the first bias, γ and β must be {list(hidden)}, got {list(vector.shape)} ({name})")
    shape = (len(x if rows is None else rows), len(weights.fc2_weight))
    if shortcut is not None and shortcut.shape != shape:
        raise ValueError(f"the shortcut must be {list(shape)}, got {list(shortcut.shape)}")

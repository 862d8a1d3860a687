"""Layers with a sparse forward and dense parameters: names and shapes match timm's, so weights convert by key.

A layer calls the operations of its backend, ``ops``; :func:`use_backend` sets it for a whole network.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcmae.sparse.backends.operations import Backend, MlpWeights
from fcmae.sparse.backends.registry import resolve_backend
from fcmae.sparse.sites import ActiveSites

LAYER_NORM_EPS = 1e-6  # as in the papers and timm; torch's default is 1e-5
PLAIN = resolve_backend("torch")


def use_backend(network: nn.Module, name: str) -> None:
    """Set the backend of every layer by name, for the device of the parameters.

    Raises:
        BackendError: the backend is not installed, or does not support the device.
    """
    backend = resolve_backend(name, next(network.parameters()).device)
    layers: Iterable[Any] = network.modules()
    for layer in layers:
        if hasattr(type(layer), "ops"):
            layer.ops = backend


def use_backend_anew(network: Any, *_: object) -> None:
    """After what may have changed the device: the backend of the name that the network was built with."""
    use_backend(network, network.backend_name)


class LayerNorm(nn.LayerNorm):
    """LayerNorm over rows, with the papers' eps."""

    ops: Backend = PLAIN

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=LAYER_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] → the same."""
        return self.ops.layer_norm(x, self.weight, self.bias, self.eps)


class Stem(nn.Conv2d):
    """Convolution with kernel = stride: gathers the visible pixels, then one GEMM."""

    ops: Backend = PLAIN

    def __init__(self, in_chans: int, dim: int, stride: int) -> None:
        super().__init__(in_chans, dim, kernel_size=stride, stride=stride)

    def forward(self, images: Tensor, sites: ActiveSites, side: int) -> Tensor:  # type: ignore[override]
        """[B, C, H, W] → [B·K·s·s, dim]."""
        rows = self.ops.stem_rows(images, sites, side, self.kernel_size[0])
        return F.linear(rows, self.weight.flatten(1), self.bias)


class Downsample(nn.Conv2d):
    """2×2 stride-2 convolution."""

    ops: Backend = PLAIN

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__(in_dim, out_dim, kernel_size=2, stride=2)

    def forward(self, x: Tensor, sites: ActiveSites, side: int) -> Tensor:  # type: ignore[override]
        """[B·K·s·s, in] → [B·K·(s/2)², out]."""
        return self.ops.downsample(x, self.weight, self.bias, sites, side)


class DepthwiseConv(nn.Conv2d):
    """Submanifold depthwise convolution."""

    ops: Backend = PLAIN

    def __init__(self, dim: int, kernel_size: int = 7) -> None:
        super().__init__(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)

    def forward(self, x: Tensor, sites: ActiveSites, side: int) -> Tensor:  # type: ignore[override]
        """[B·K·s·s, dim] → the same."""
        return self.ops.depthwise_conv(x, self.weight, self.bias, sites, side)


class PointwiseConv(nn.Conv2d):
    """A Linear layer that stores its weight as a 1×1 convolution, [out, in, 1, 1], as timm's small sizes do."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__(in_dim, out_dim, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, in] → [rows, out]."""
        return F.linear(x, self.weight.flatten(1), self.bias)


class GRN(nn.Module):
    """γ and β of global response normalization, initialized to 0. The block computes GRN as part of the MLP."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim))
        self.bias = nn.Parameter(torch.zeros(dim))


class Mlp(nn.Module):
    """Parameters of Linear C → 4C, GELU, GRN, Linear 4C → C. The block computes all of it as one operation."""

    def __init__(self, dim: int, use_grn: bool, conv_mlp: bool) -> None:
        super().__init__()
        linear = PointwiseConv if conv_mlp else nn.Linear
        self.fc1 = linear(dim, 4 * dim)
        self.grn = GRN(4 * dim) if use_grn else None
        self.fc2 = linear(4 * dim, dim)

    def weights(self) -> MlpWeights:
        """The parameters as matrices and vectors."""
        gamma, beta = (None, None) if self.grn is None else (self.grn.weight, self.grn.bias)
        fc1: Any = self.fc1
        fc2: Any = self.fc2
        return MlpWeights(fc1.weight.flatten(1), fc1.bias, gamma, beta, fc2.weight.flatten(1), fc2.bias)


def init_weights(module: nn.Module) -> None:
    """Initialize weights with a truncated normal of std 0.02 and biases with zero; apply it only once."""
    if isinstance(module, nn.Conv2d | nn.Linear) and not module.weight.is_meta:
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)

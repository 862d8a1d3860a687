"""Dense layers' parameters, sparse forwards: names and shapes are timm's, so converting is key by key."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcmae.sparse import ActiveSites, Backend, gather_image_patches, layer_norm

LAYER_NORM_EPS = 1e-6  # the papers' and timm's; torch's default is 1e-5


class LayerNorm(nn.LayerNorm):
    """Layer norm of rows, with the papers' eps."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=LAYER_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] → the same."""
        return layer_norm(x, self.weight, self.bias, self.eps)


class Stem(nn.Conv2d):
    """Convolution with kernel = stride: the visible pixels, then one GEMM."""

    def __init__(self, in_chans: int, dim: int, stride: int) -> None:
        super().__init__(in_chans, dim, kernel_size=stride, stride=stride)

    def forward(self, images: Tensor, sites: ActiveSites, side: int) -> Tensor:  # type: ignore[override]
        """[B, C, H, W] → [B·K·s·s, dim]."""
        return F.linear(gather_image_patches(images, sites, side), self.weight.flatten(1), self.bias)


class Downsample(nn.Conv2d):
    """2×2 stride-2 convolution."""

    def __init__(self, in_dim: int, out_dim: int, backend: Backend) -> None:
        super().__init__(in_dim, out_dim, kernel_size=2, stride=2)
        self.backend = backend

    def forward(self, x: Tensor, sites: ActiveSites, side: int) -> Tensor:  # type: ignore[override]
        """[B·K·s·s, in] → [B·K·(s/2)², out]."""
        return self.backend.downsample(x, self.weight, self.bias, sites, side)


class DepthwiseConv(nn.Conv2d):
    """Submanifold depthwise convolution."""

    def __init__(self, dim: int, backend: Backend, kernel_size: int = 7) -> None:
        super().__init__(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)
        self.backend = backend

    def forward(self, x: Tensor, sites: ActiveSites, side: int) -> Tensor:  # type: ignore[override]
        """[B·K·s·s, dim] → the same."""
        return self.backend.depthwise_conv(x, self.weight, self.bias, sites, side)


class PointwiseConv(nn.Conv2d):
    """A Linear layer that stores its weight as a 1×1 convolution, [out, in, 1, 1], as timm's small sizes do."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__(in_dim, out_dim, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, in] → [rows, out]."""
        return F.linear(x, self.weight.flatten(1), self.bias)


class GRN(nn.Module):
    """γ and β of global response normalization, 0 at the start; the MLP around it computes it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim))
        self.bias = nn.Parameter(torch.zeros(dim))


def init_weights(module: nn.Module) -> None:
    """Truncated normal of std 0.02 for every kernel, zero for every bias; to be applied once."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)

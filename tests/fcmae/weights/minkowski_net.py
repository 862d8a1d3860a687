"""A ConvNeXt V2 of MinkowskiEngine's own layers, named as in the official training code."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcmae.sparse.backends.minkowski import engine
from tests.fcmae.weights.foreign import Dims, Norm2d


class OnFeatures(nn.Module):
    """A dense layer on the features of a sparse tensor."""

    def on(self, x, features: Tensor):  # type: ignore[no-untyped-def]
        return engine.SparseTensor(
            features, coordinate_map_key=x.coordinate_map_key, coordinate_manager=x.coordinate_manager
        )


class LayerNorm(OnFeatures):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x):  # type: ignore[no-untyped-def]
        return self.on(x, self.ln(x.F))


class Grn(OnFeatures):
    """Norm over all sites, so for a batch of one it is the image's."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, dim))
        self.beta = nn.Parameter(torch.zeros(1, dim))

    def forward(self, x):  # type: ignore[no-untyped-def]
        norm = x.F.norm(dim=0, keepdim=True)
        return self.on(x, self.gamma * (x.F * (norm / (norm.mean(-1, keepdim=True) + 1e-6))) + self.beta + x.F)


class Block(OnFeatures):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = engine.MinkowskiChannelwiseConvolution(dim, kernel_size=7, bias=True, dimension=2)
        self.norm = LayerNorm(dim)
        self.pwconv1 = engine.MinkowskiLinear(dim, 4 * dim)
        self.pwconv2 = engine.MinkowskiLinear(4 * dim, dim)
        self.grn = Grn(4 * dim)

    def forward(self, x):  # type: ignore[no-untyped-def]
        y = self.pwconv1(self.norm(self.dwconv(x)))
        y = self.pwconv2(self.grn(self.on(y, F.gelu(y.F))))
        return self.on(x, x.F + y.F)


class Encoder(nn.Module):
    """[1, C, H, W] and bool [1, h, w] → [1, C_last, h, w]."""

    def __init__(self, depths: Dims, dims: Dims) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(3, dims[0], 4, 4), Norm2d(dims[0], eps=1e-6))
        strided = (
            nn.Sequential(
                LayerNorm(a), engine.MinkowskiConvolution(a, b, kernel_size=2, stride=2, bias=True, dimension=2)
            )
            for a, b in pairwise(dims)
        )
        self.downsample_layers = nn.ModuleList([stem, *strided])
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(dim) for _ in range(depth))) for depth, dim in zip(depths, dims, strict=True)
        )

    def forward(self, images: Tensor, visible: Tensor) -> Tensor:
        dense = self.downsample_layers[0](images)
        sites = visible.repeat_interleave(8, 1).repeat_interleave(8, 2).nonzero()
        features = dense[sites[:, 0], :, sites[:, 1], sites[:, 2]]
        x = engine.SparseTensor(features.contiguous(), sites.int().contiguous())
        for index, stage in enumerate(self.stages):
            x = stage(self.downsample_layers[index](x) if index else x)
        out = torch.zeros(1, x.F.shape[1], *visible.shape[1:])
        place = x.C.long()
        out[0, :, place[:, 1] // 8, place[:, 2] // 8] = x.F.T
        return out


class Fcmae(nn.Module):
    """The encoder with the decoder's parameters beside it."""

    def __init__(self, depths: Dims, dims: Dims) -> None:
        super().__init__()
        self.encoder = Encoder(depths, dims)

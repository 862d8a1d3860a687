"""ConvNeXt as other codebases name and shape it, written out to be run: what their weights mean, not how we read them.

Each network is literal and shares no code with fcmae; only what a format's names and shapes need is there.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Dims = tuple[int, ...]
ATTO: tuple[Dims, Dims] = ((2, 2, 6, 2), (40, 80, 160, 320))


class Norm2d(nn.LayerNorm):
    """LayerNorm over the channels of [B, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Grn(nn.Module):
    """As the official dense code: gamma and beta of [1, 1, 1, C], on [B, H, W, C]."""

    def __init__(self, dim: int, shape: Callable[[int], tuple[int, ...]] = lambda dim: (1, 1, 1, dim)) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(shape(dim)))
        self.beta = nn.Parameter(torch.zeros(shape(dim)))

    def forward(self, x: Tensor) -> Tensor:
        norm = x.norm(dim=(1, 2), keepdim=True)
        return self.gamma * (x * (norm / (norm.mean(-1, keepdim=True) + 1e-6))) + self.beta + x


class OfficialBlock(nn.Module):
    """V2 with GRN, V1 with ``gamma`` for LayerScale."""

    def __init__(self, dim: int, v2: bool) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        if v2:
            self.grn = Grn(4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)
        if not v2:
            self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.pwconv1(self.norm(self.dwconv(x).permute(0, 2, 3, 1))))
        y = self.pwconv2(self.grn(y) if hasattr(self, "grn") else y)
        y = y * self.gamma if hasattr(self, "gamma") else y
        return x + y.permute(0, 3, 1, 2)


class Official(nn.Module):
    """The official dense network; published encoders lack ``norm`` and ``head``."""

    def __init__(self, depths: Dims, dims: Dims, v2: bool = True, num_classes: int = 0, in_chans: int = 3) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(in_chans, dims[0], 4, 4), Norm2d(dims[0], eps=1e-6))
        self.downsample_layers = nn.ModuleList(
            [stem, *(nn.Sequential(Norm2d(a, eps=1e-6), nn.Conv2d(a, b, 2, 2)) for a, b in pairwise(dims))]
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(OfficialBlock(dim, v2) for _ in range(depth)))
            for depth, dim in zip(depths, dims, strict=True)
        )
        if num_classes:
            self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
            self.head = nn.Linear(dims[-1], num_classes)

    def features(self, x: Tensor) -> Tensor:
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.features(x).mean((-2, -1))))


class OfficialIsotropic(nn.Module):
    """The official V1 isotropic network; ``gamma`` only in the large size."""

    def __init__(self, depth: int, dim: int, num_classes: int = 0, scaled: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, dim, 16, 16)
        self.blocks = nn.Sequential(*(OfficialBlock(dim, v2=False) for _ in range(depth)))
        if not scaled:
            for block in self.blocks:
                del block.gamma
        if num_classes:
            self.norm = nn.LayerNorm(dim, eps=1e-6)
            self.head = nn.Linear(dim, num_classes)

    def features(self, x: Tensor) -> Tensor:
        return self.blocks(self.stem(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.features(x).mean((-2, -1))))


class MMEarth(nn.Module):
    """MMEarth's: a stem of two convolutions (or the original one under another name), downsampling numbered from 0."""

    def __init__(self, depths: Dims, dims: Dims, in_chans: int, original_stem: bool, stride: int) -> None:
        super().__init__()
        if original_stem:
            self.stem_orig = nn.Sequential(nn.Conv2d(in_chans, dims[0], stride, stride), Norm2d(dims[0], eps=1e-6))
        else:
            self.initial_conv = nn.Sequential(nn.Conv2d(in_chans, dims[0], 3), Norm2d(dims[0], eps=1e-6), nn.GELU())
            depthwise = nn.Conv2d(dims[0], dims[0], stride, stride, padding=stride // 2, groups=dims[0])
            self.stem = nn.Sequential(depthwise, Norm2d(dims[0], eps=1e-6))
        self.downsample_layers = nn.ModuleList(
            nn.Sequential(Norm2d(a, eps=1e-6), nn.Conv2d(a, b, 2, 2)) for a, b in pairwise(dims)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(OfficialBlock(dim, v2=True) for _ in range(depth)))
            for depth, dim in zip(depths, dims, strict=True)
        )

    def features(self, x: Tensor) -> Tensor:
        x = self.stem_orig(x) if hasattr(self, "stem_orig") else self.stem(self.initial_conv(x))
        x = self.stages[0](x)
        for downsample, stage in zip(self.downsample_layers, self.stages[1:], strict=True):
            x = stage(downsample(x))
        return x


class MmpretrainBlock(nn.Module):
    """GRN of [C]; ``gamma`` for LayerScale."""

    def __init__(self, dim: int, v2: bool) -> None:
        super().__init__()
        self.depthwise_conv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pointwise_conv1 = nn.Linear(dim, 4 * dim)
        self.pointwise_conv2 = nn.Linear(4 * dim, dim)
        if v2:
            self.grn = Grn(4 * dim, lambda dim: (dim,))
        else:
            self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.pointwise_conv1(self.norm(self.depthwise_conv(x).permute(0, 2, 3, 1))))
        y = self.pointwise_conv2(self.grn(y) if hasattr(self, "grn") else y)
        y = y * self.gamma if hasattr(self, "gamma") else y
        return x + y.permute(0, 3, 1, 2)


class MmpretrainBackbone(Official):
    """mmpretrain's ConvNeXt, with the norm of its last output."""

    def __init__(self, depths: Dims, dims: Dims, v2: bool = True) -> None:
        super().__init__(depths, dims, v2)
        self.stages = nn.ModuleList(
            nn.Sequential(*(MmpretrainBlock(dim, v2) for _ in range(depth)))
            for depth, dim in zip(depths, dims, strict=True)
        )
        self.norm3 = Norm2d(dims[-1], eps=1e-6)


class MmpretrainClassifier(nn.Module):
    """Backbone and head, as mmpretrain saves them."""

    def __init__(self, depths: Dims, dims: Dims, v2: bool, num_classes: int) -> None:
        super().__init__()
        self.backbone = MmpretrainBackbone(depths, dims, v2)
        self.head = nn.ModuleDict({"fc": nn.Linear(dims[-1], num_classes)})

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.backbone.features(x).mean((-2, -1), keepdim=True)
        return self.head["fc"](self.backbone.norm3(pooled).flatten(1))


def as_mmpretrain(official: dict[str, Tensor]) -> dict[str, Tensor]:
    """The official names as mmpretrain's."""
    names = {"dwconv": "depthwise_conv", "pwconv1": "pointwise_conv1", "pwconv2": "pointwise_conv2"}
    renamed = {}
    for name, tensor in official.items():
        if name.startswith("head."):
            name = name.replace("head.", "head.fc.")
        elif name.startswith("norm."):
            name = name.replace("norm.", "backbone.norm3.")
        else:
            name = "backbone." + ".".join(names.get(part, part) for part in name.split("."))
        renamed[name] = tensor.flatten() if ".grn." in name else tensor
    return renamed


def as_mmearth(official: dict[str, Tensor]) -> dict[str, Tensor]:
    """The official names as MMEarth's, with the original stem."""
    renamed = {}
    for name, tensor in official.items():
        parts = name.split(".")
        if parts[0] == "downsample_layers":
            parts[:2] = ["stem_orig"] if parts[1] == "0" else ["downsample_layers", str(int(parts[1]) - 1)]
        renamed[".".join(parts)] = tensor
    return renamed


def as_training_checkpoint(official: dict[str, Tensor], of_mmearth: bool = False) -> dict[str, Tensor]:
    """Official dense weights as MinkowskiEngine's layers hold them: offset i of a kernel is y = i % k, x = i // k.

    The official stem stays dense; MMEarth's is sparse too.
    """
    converted = {}
    for name, tensor in official.items():
        module, _, kind = name.rpartition(".")
        is_sparse = of_mmearth or not name.startswith("downsample_layers.0.")
        is_norm = "norm" in module or (tensor.ndim == 1 and f"{module}.weight" in official and (
            official[f"{module}.weight"].ndim == 1
        ))  # fmt: skip
        if not is_sparse:
            converted[f"encoder.{name}"] = tensor
        elif ".grn." in name:
            converted[f"encoder.{name}"] = tensor.reshape(1, -1)
        elif tensor.ndim == 4:
            side = tensor.shape[2]
            offsets = [tensor[:, :, i % side, i // side] for i in range(side**2)]
            is_depthwise = tensor.shape[1] == 1
            kernel = torch.stack([o[:, 0] if is_depthwise else o.T for o in offsets])
            converted[f"encoder.{module}.kernel"] = kernel if is_depthwise or side > 1 else kernel[0]
        elif is_norm:
            converted[f"encoder.{module}.ln.{kind}"] = tensor
        elif ".pwconv" in name:
            converted[f"encoder.{module}.linear.{kind}"] = tensor
        elif kind == "bias":
            converted[f"encoder.{name}"] = tensor[None]
        else:
            converted[f"encoder.{name}"] = tensor
    return converted


def as_detector(official: dict[str, Tensor], dims: Dims = ATTO[1]) -> dict[str, Tensor]:
    """A backbone's official names as the official V1 detection code saves them, with a norm after each stage."""
    renamed = {f"backbone.{name}": tensor for name, tensor in official.items() if not name.startswith(("norm", "head"))}
    for stage, dim in enumerate(dims):
        renamed |= {
            f"backbone.norm{stage}.weight": torch.full((dim,), 2.0),
            f"backbone.norm{stage}.bias": torch.ones(dim),
        }
    return renamed


def as_spark(official: dict[str, Tensor]) -> dict[str, Tensor]:
    """The official names as SparK's own module holds them, with some of its decoder."""
    renamed = {f"sparse_encoder.sp_cnn.{name}": tensor for name, tensor in official.items()}
    return renamed | {
        "imn_m": torch.zeros(1, 3, 1, 1),
        "imn_s": torch.zeros(1, 3, 1, 1),
        "norm_black": torch.zeros(1, 3, 8, 8),
        "mask_tokens.0": torch.zeros(1, 320, 1, 1),
        "densify_norms.0.weight": torch.ones(320),
        "densify_projs.1.weight": torch.zeros(4, 160, 3, 3),
        "dense_decoder.dec.0.conv.1.num_batches_tracked": torch.tensor(7),
        "dense_decoder.proj.weight": torch.zeros(3, 8, 1, 1),
    }

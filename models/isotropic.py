"""Isotropic ConvNeXt (arXiv 2201.03545, section 3.3) as a dense timm network, which timm itself does not have.

One stage at one resolution, a stem without a norm. The module is a timm ConvNeXt with a single stage, so timm's tools
(layer decay, ``features_only``, ``reset_classifier``) work. Importing this file registers the names with timm:
``timm.create_model("convnext_isotropic_small")``.
"""

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.convnext import ConvNeXt
from torch import nn

from fcmae.models.sizes import SIZES, version_of

INPUT = {
    "url": "",
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "pool_size": (14, 14),
    "crop_pct": 0.875,
    "interpolation": "bicubic",
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD,
    "first_conv": "stem.0",
    "classifier": "head.fc",
}
default_cfgs = generate_default_cfgs({name: INPUT for name, size in SIZES.items() if size.is_isotropic})


class IsotropicConvNeXt(ConvNeXt):
    """timm's ConvNeXt cut to its first stage, without the stem's norm.

    Args:
        depth: number of blocks.
        dim: their width.
        patch_size: kernel and stride of the stem.
        options: of timm's ConvNeXt.
    """

    stem: nn.Sequential
    stages: nn.Sequential
    feature_info: list[dict[str, Any]]

    def __init__(self, depth: int, dim: int, patch_size: int = 16, **options: Any) -> None:
        super().__init__(depths=(depth, 0, 0, 0), dims=(dim,) * 4, patch_size=patch_size, **options)
        whole: Any = self
        self.stem = nn.Sequential(whole.stem[0])
        self.stages = nn.Sequential(whole.stages[0])
        self.feature_info = whole.feature_info[:1]


def _create(name: str, pretrained: bool, **options: Any) -> nn.Module:
    size, scaled = SIZES[name], version_of(name).use_layer_scale
    defaults = {"ls_init_value": 1e-6 if scaled else None, "patch_size": size.stem_stride}
    return build_model_with_cfg(
        IsotropicConvNeXt,
        name,
        pretrained,
        feature_cfg={"out_indices": (0,), "flatten_sequential": True},
        depth=size.depths[0],
        dim=size.dims[0],
        **defaults | options,
    )


@register_model
def convnext_isotropic_small(pretrained: bool = False, **options: Any) -> nn.Module:
    """18 blocks of width 384, without LayerScale."""
    return _create("convnext_isotropic_small", pretrained, **options)


@register_model
def convnext_isotropic_base(pretrained: bool = False, **options: Any) -> nn.Module:
    """18 blocks of width 768, without LayerScale."""
    return _create("convnext_isotropic_base", pretrained, **options)


@register_model
def convnext_isotropic_large(pretrained: bool = False, **options: Any) -> nn.Module:
    """36 blocks of width 1024, with LayerScale."""
    return _create("convnext_isotropic_large", pretrained, **options)

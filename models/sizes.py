"""The named sizes of ConvNeXt V1 (arXiv 2201.03545) and V2 (arXiv 2301.00808, table 16). To add one, add a line."""

from dataclasses import dataclass
from typing import NamedTuple


class Size(NamedTuple):
    """Depth and width of the four stages."""

    depths: tuple[int, int, int, int]
    dims: tuple[int, int, int, int]
    conv_mlp: bool = False
    """Whether timm stores the block's Linear layers as 1×1 convolutions, [out, in, 1, 1]; the values are the same."""


@dataclass(frozen=True)
class Version:
    """Differences between ConvNeXt V1 and V2 blocks."""

    use_grn: bool
    use_layer_scale: bool


V1 = Version(use_grn=False, use_layer_scale=True)
V2 = Version(use_grn=True, use_layer_scale=False)

SIZES: dict[str, Size] = {
    "convnextv2_atto": Size((2, 2, 6, 2), (40, 80, 160, 320), conv_mlp=True),
    "convnextv2_femto": Size((2, 2, 6, 2), (48, 96, 192, 384), conv_mlp=True),
    "convnextv2_pico": Size((2, 2, 6, 2), (64, 128, 256, 512), conv_mlp=True),
    "convnextv2_nano": Size((2, 2, 8, 2), (80, 160, 320, 640), conv_mlp=True),
    "convnextv2_tiny": Size((3, 3, 9, 3), (96, 192, 384, 768)),
    "convnextv2_base": Size((3, 3, 27, 3), (128, 256, 512, 1024)),
    "convnextv2_large": Size((3, 3, 27, 3), (192, 384, 768, 1536)),
    "convnextv2_huge": Size((3, 3, 27, 3), (352, 704, 1408, 2816)),
    "convnext_tiny": Size((3, 3, 9, 3), (96, 192, 384, 768)),
    "convnext_small": Size((3, 3, 27, 3), (96, 192, 384, 768)),
    "convnext_base": Size((3, 3, 27, 3), (128, 256, 512, 1024)),
    "convnext_large": Size((3, 3, 27, 3), (192, 384, 768, 1536)),
    "convnext_xlarge": Size((3, 3, 27, 3), (256, 512, 1024, 2048)),
}


def list_models() -> list[str]:
    """Names that :func:`fcmae.create_model` accepts; they are timm's names."""
    return list(SIZES)


def version_of(name: str) -> Version:
    """V1 or V2, from the model name."""
    return V2 if name.startswith("convnextv2_") else V1

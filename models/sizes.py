"""The named sizes of ConvNeXt V1 (arXiv 2201.03545) and V2 (arXiv 2301.00808, table 16). To add one, add a line."""

from dataclasses import dataclass
from typing import NamedTuple


class Size(NamedTuple):
    """Depth and width of the stages: four, or one in an isotropic network."""

    depths: tuple[int, ...]
    dims: tuple[int, ...]
    conv_mlp: bool = False
    """Whether timm stores the block's Linear layers as 1×1 convolutions, [out, in, 1, 1]; the values are the same."""
    stem_stride: int = 4
    """Kernel and stride of the stem, unless it is set."""

    @property
    def is_isotropic(self) -> bool:
        """Whether there is one stage (V1 paper, section 3.3): no downsampling, and no norm in the stem."""
        return len(self.depths) == 1

    @property
    def stem_strides(self) -> tuple[int, ...]:
        """The strides that the stem may have. Those of isotropic networks are a whole patch."""
        return (4, 8, 16, 32) if self.is_isotropic else (1, 2, 4)


@dataclass(frozen=True)
class Version:
    """Differences between ConvNeXt V1 and V2 blocks."""

    use_grn: bool
    use_layer_scale: bool


V1 = Version(use_grn=False, use_layer_scale=True)
V2 = Version(use_grn=True, use_layer_scale=False)
WITHOUT_SCALE = Version(use_grn=False, use_layer_scale=False)

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
    "convnext_isotropic_small": Size((18,), (384,), stem_stride=16),
    "convnext_isotropic_base": Size((18,), (768,), stem_stride=16),
    "convnext_isotropic_large": Size((36,), (1024,), stem_stride=16),
}
# trained without LayerScale, unlike isotropic_large and the others of V1
VERSIONS = {"convnext_isotropic_small": WITHOUT_SCALE, "convnext_isotropic_base": WITHOUT_SCALE}


def check_stem_stride(stride: int, name: str | None) -> None:
    """ValueError for a stride that the stem of a size cannot have; without a name, that no size can have."""
    sizes = SIZES.values() if name is None else [SIZES[name]]
    *others, last = sorted({one for size in sizes for one in size.stem_strides})
    if stride not in (*others, last):
        of = f" for {name}" if name is not None and SIZES[name].is_isotropic else ""
        raise ValueError(f"stem_stride must be {', '.join(map(str, others))} or {last}{of}, got {stride}")


def list_models() -> list[str]:
    """Names that :func:`fcmae.create_model` accepts: timm's, and the official code's for isotropic networks."""
    return list(SIZES)


def version_of(name: str) -> Version:
    """What the blocks of a size have, from its name."""
    return VERSIONS.get(name, V2 if name.startswith("convnextv2_") else V1)

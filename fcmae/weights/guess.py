"""Which network an encoder's weights belong to, from names and shapes, for files without a configuration."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fcmae.errors import UserError
from fcmae.models import ModelConfig
from fcmae.models.sizes import SIZES, Size, version_of
from fcmae.weights.recognize import Recognized

WIDTHS = (".norm.weight", ".norm.bias", ".conv_dw.bias")  # endings of vectors as long as a block is wide
Blocks = dict[tuple[int, int], list[str]]
"""(stage, block) → names of its parameters."""


def guess_config(encoder: Mapping[str, Tensor], recognized: Recognized, origin: str) -> ModelConfig:
    """The configuration whose encoder has these depths and widths, decided by the majority of blocks.

    Raises:
        UserError: no size has these depths and widths, or the stem is missing or of another shape.
    """
    blocks = _blocks(encoder)
    depths = tuple(sum(stage == s for stage, _ in blocks) for s in range(4))
    dims = tuple(_width(encoder, blocks, stage) for stage in range(4))
    names = [name for name, size in SIZES.items() if (_of_four(size.depths), _of_four(size.dims)) == (depths, dims)]
    whole = f"{origin} ({recognized.format.name}) does not hold one whole encoder"
    if not names:
        raise UserError(f"{whole}: no size has depths {depths} and dims {dims}")
    size = SIZES[names[0]]
    stride = _stem_stride(encoder, recognized, size, whole)
    with_grn = _most(blocks, ".mlp.grn.weight")
    return ModelConfig(
        name=next((n for n in names if version_of(n).use_grn == with_grn), names[0]),
        img_size=224 // size.stem_stride * stride,
        in_chans=encoder["stem.0.weight"].shape[1],
        stem_stride=stride,
        use_grn=with_grn,
        use_layer_scale=_most(blocks, ".gamma"),
    )


def _of_four(values: tuple[int, ...]) -> tuple[int, ...]:
    """Depths or widths of four stages; those that an isotropic network lacks are 0."""
    return (*values, 0, 0, 0)[:4]


def _blocks(encoder: Mapping[str, Tensor]) -> Blocks:
    blocks: Blocks = {}
    for name in encoder:
        if match := re.match(r"stages\.(\d+)\.blocks\.(\d+)\.", name):
            blocks.setdefault((int(match[1]), int(match[2])), []).append(name)
    return {place: names for place, names in blocks.items() if len(names) > 1}  # a single tensor is a stray key


def _width(encoder: Mapping[str, Tensor], blocks: Blocks, stage: int) -> int:
    """The most common width of a stage's blocks; 0 if it has none."""
    names = (name for (of_stage, _), names in blocks.items() if of_stage == stage for name in names)
    widths = Counter(encoder[name].shape[-1] for name in names if encoder[name].ndim and name.endswith(WIDTHS))
    return widths.most_common(1)[0][0] if widths else 0


def _stem_stride(encoder: Mapping[str, Tensor], recognized: Recognized, size: Size, whole: str) -> int:
    """From the shape of the convolution that has the stride: in MMEarth's own stem the second."""
    names = ("stem.3.weight", "stem.0.weight") if "stem.3.weight" in encoder else ("stem.0.weight",)
    for name in names:
        if name not in encoder:
            raise UserError(f"{whole}: missing {recognized.source_name(name)}")
        shape = list(encoder[name].shape)
        if len(shape) != 4 or (name == names[0] and shape[-1] not in size.stem_strides):
            original = next(found.source_name for found in recognized.found if found.ours == name)
            raise UserError(
                f"{whole}: {original} is {shape}, expected [{size.dims[0]}, channels, s, s] with s of "
                f"{', '.join(map(str, size.stem_strides))}"
            )
    return encoder[names[0]].shape[-1]


def _most(blocks: Blocks, ending: str) -> bool:
    """Whether more than half of the blocks have a parameter of this name."""
    return 2 * sum(any(name.endswith(ending) for name in names) for names in blocks.values()) > len(blocks)


def as_trained(args: Mapping[str, Any], patch_size: int) -> dict[str, Any]:
    """Fields of the configuration that the official training script's arguments say."""
    fields: dict[str, Any] = {}
    if isinstance(norm_pix_loss := args.get("norm_pix_loss"), bool):
        fields["norm_pix_loss"] = norm_pix_loss
    if isinstance(size := args.get("input_size"), int) and size >= patch_size and size % patch_size == 0:
        fields["img_size"] = size
    return fields


def mask_ratio(args: Mapping[str, Any]) -> float | None:
    """The official training script's mask ratio; None if its arguments do not say."""
    given = args.get("mask_ratio")
    return given if isinstance(given, float) and 0 <= given < 1 else None

"""MMEarth's network: the official blocks, a stem of its own or the original one, downsampling numbered from 0."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from fcmae.weights.formats.base import Format, Named, Networks
from fcmae.weights.formats.names import Names
from fcmae.weights.formats.official import BLOCK, OFFICIAL

STEMS = ("stem_orig.", "initial_conv.")
NAMES = Names(
    [
        ("stem.0", "stem_orig.0"),
        ("stem.1", "stem_orig.1"),
        ("stem.0", "initial_conv.0"),
        ("stem.1", "initial_conv.1"),
        ("stem.3", "stem.0"),  # timm numbers the GELU between them
        ("stem.4", "stem.1"),
        *((f"stages.{stage}.downsample.{{j}}", f"downsample_layers.{stage - 1}.{{j}}") for stage in (1, 2, 3)),
        *BLOCK,
        ("head.norm", "norm"),
        ("head.fc", "head"),
    ]
)


def matches(names: Sequence[str]) -> Networks:
    """The official blocks after one of MMEarth's stems."""
    return {
        prefix: telling
        for prefix, telling in OFFICIAL.matches(names).items()
        if any(name.removeprefix(prefix).startswith(STEMS) for name in names if name.startswith(prefix))
    }


MMEARTH = Format(
    name="MMEarth",
    matches=matches,
    to_timm=NAMES.to_timm,
    from_timm=NAMES.from_timm,
    held_as=("encoder.",),
    leftovers=("decoder_dict.", "pred_dict.", "layer_norm_tmp.", "loss_fn.", "mask_token", "proj."),
    published=True,
)

UPSAMPLING = "upsample_layers."
BESIDE_UNET = (UPSAMPLING, "initial_conv_upsample.", "layerNorm.", "norm.", "head.")


def matches_unet(names: Sequence[str]) -> Networks:
    """MMEarth's network with layers that go up again."""
    return {
        prefix: telling
        for prefix, telling in matches(names).items()
        if any(name.startswith(prefix + UPSAMPLING) for name in names)
    }


def unet_to_timm(name: str, tensor: Tensor) -> Named | None:
    """The encoder alone: its head is a convolution, and its norm is never used."""
    return None if name.startswith(BESIDE_UNET) else NAMES.to_timm(name, tensor)


MMEARTH_UNET = replace(
    MMEARTH, name="MMEarth U-Net", matches=matches_unet, to_timm=unet_to_timm, leftovers=BESIDE_UNET, published=False
)

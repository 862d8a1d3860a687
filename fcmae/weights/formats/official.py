"""The official code's dense networks: as published (``…_fcmae.pt``), as fine-tuned, and the isotropic ones of V1."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from fcmae.errors import UserError
from fcmae.weights.formats.base import Format, Networks, Target, nothing
from fcmae.weights.formats.names import Names, networks
from fcmae.weights.weights import Weights

BLOCK = [
    ("stages.{s}.blocks.{b}.conv_dw", "stages.{s}.{b}.dwconv"),
    ("stages.{s}.blocks.{b}.norm", "stages.{s}.{b}.norm"),
    ("stages.{s}.blocks.{b}.mlp.fc1", "stages.{s}.{b}.pwconv1"),
    ("stages.{s}.blocks.{b}.mlp.grn", "stages.{s}.{b}.grn"),
    ("stages.{s}.blocks.{b}.mlp.fc2", "stages.{s}.{b}.pwconv2"),
    ("stages.{s}.blocks.{b}.gamma", "stages.{s}.{b}.gamma"),
]
DOWNSAMPLING = [
    ("stem.0", "downsample_layers.0.0"),
    ("stem.1", "downsample_layers.0.1"),
    ("stages.{s}.downsample.{j}", "downsample_layers.{s}.{j}"),
]
NAMES = Names(
    [
        *DOWNSAMPLING,
        *BLOCK,
        ("head.norm", "norm"),
        ("head.fc", "head"),
    ]
)
# One stage, whose blocks are the network's; no norm in the stem
ISOTROPIC_NAMES = Names(
    [
        ("stem.0", "stem"),
        *((ours.replace("{s}", "0"), theirs.replace("stages.{s}.{b}", "blocks.{b}")) for ours, theirs in BLOCK),
        ("head.norm", "norm"),
        ("head.fc", "head"),
    ]
)
DECODER_NAMES = Names(
    [
        ("decoder.mask_token", "mask_token"),
        ("decoder.proj", "proj"),
        ("decoder.pred", "pred"),
        *((ours.replace("stages.{s}", "decoder"), theirs.replace("stages.{s}", "decoder")) for ours, theirs in BLOCK),
    ]
)


def matches(names: Sequence[str]) -> Networks:
    """By the modules of a block."""
    return networks(r"stages\.\d+\.\d+\.(?:dwconv|pwconv1|pwconv2)", names)


def isotropic_matches(names: Sequence[str]) -> Networks:
    """By the modules of a block."""
    return networks(r"blocks\.\d+\.(?:dwconv|pwconv1|pwconv2)", names)


def from_timm(name: str) -> str | None:
    """Also for our decoder."""
    return NAMES.from_timm(name) or DECODER_NAMES.from_timm(name)


def linear_layout(name: str, tensor: Tensor) -> Tensor:
    """GRN as [1, 1, 1, C]; Linear layers where timm's smaller sizes have 1×1 convolutions."""
    if ".mlp.grn." in name:
        return tensor.reshape(1, 1, 1, -1)
    return tensor.flatten(1) if ".mlp.fc" in name and tensor.ndim == 4 else tensor


def check_has_stages(weights: Weights, format: str) -> None:
    """UserError for isotropic networks, where a library has none."""
    if weights.config.size.is_isotropic:
        raise UserError(
            f"{weights.origin} is isotropic ({weights.config.name}), which {format} has no network for; use the "
            f"official format, or fcmae.create_dense"
        )


def check_stem(weights: Weights, format: str) -> None:
    """UserError for MMEarth's stem, which the libraries cannot build."""
    if weights.has_mmearth_stem:
        raise UserError(
            f"{weights.origin}: MMEarth's stem (a 3×3 convolution before a depthwise one) has no place in the {format} "
            f"format; fcmae.create_dense makes a timm network with it"
        )


def check_original(weights: Weights, format: str) -> None:
    """UserError for what the original code has no network for: MMEarth's stem, GRN together with LayerScale."""
    check_stem(weights, format)
    if weights.config.with_grn and weights.config.with_layer_scale:
        raise UserError(f"{weights.origin}: the {format} format has no network with both GRN and LayerScale; use timm")


OFFICIAL: Format = Format(
    name="official",
    matches=matches,
    to_timm=NAMES.to_timm,
    from_timm=from_timm,
    beside=DECODER_NAMES.to_timm,
    held_as=("encoder.",),
    published=True,
    variant=lambda weights: ISOTROPIC if weights.config.size.is_isotropic else None,
    target=Target(
        layout=linear_layout,
        check=lambda weights: check_original(weights, "official"),
        entry="model",
        module="safetensors.torch",
        usage='safetensors.torch.load_file("FOLDER/model.safetensors")',
    ),
)
ISOTROPIC: Format = replace(
    OFFICIAL,
    name="official isotropic",
    matches=isotropic_matches,
    to_timm=ISOTROPIC_NAMES.to_timm,
    from_timm=ISOTROPIC_NAMES.from_timm,
    beside=nothing,
    published=False,
    target=None,
)

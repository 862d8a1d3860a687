"""mmpretrain (OpenMMLab), with or without ``backbone.``; also its SparK. Written for mmpretrain, mmdet and mmseg."""

from collections.abc import Sequence

from torch import Tensor

from fcmae.weights.formats.base import Format, Networks, Target
from fcmae.weights.formats.names import Names, networks
from fcmae.weights.formats.official import DOWNSAMPLING, check_has_stages, check_stem
from fcmae.weights.weights import Weights

BACKBONE = "backbone."

NAMES = Names(
    [
        *DOWNSAMPLING,
        ("stages.{s}.blocks.{b}.conv_dw", "stages.{s}.{b}.depthwise_conv"),
        ("stages.{s}.blocks.{b}.norm", "stages.{s}.{b}.norm"),
        ("stages.{s}.blocks.{b}.mlp.fc1", "stages.{s}.{b}.pointwise_conv1"),
        ("stages.{s}.blocks.{b}.mlp.grn", "stages.{s}.{b}.grn"),
        ("stages.{s}.blocks.{b}.mlp.fc2", "stages.{s}.{b}.pointwise_conv2"),
        ("stages.{s}.blocks.{b}.gamma", "stages.{s}.{b}.gamma"),
        ("head.norm", "norm3"),
    ]
)
CLASSIFIER = Names([("head.fc", "head.fc")])


def matches(names: Sequence[str]) -> Networks:
    """By the modules of a block."""
    return networks(r"stages\.\d+\.\d+\.(?:depthwise_conv|pointwise_conv1|pointwise_conv2)", names)


def from_timm(name: str) -> str | None:
    """Also for the classifier, which lies beside the backbone."""
    return NAMES.from_timm(name) or CLASSIFIER.from_timm(name)


def layout(name: str, tensor: Tensor) -> Tensor:
    """Linear layers where timm's smaller sizes have 1×1 convolutions."""
    return tensor.flatten(1) if ".mlp.fc" in name and tensor.ndim == 4 else tensor


def check(weights: Weights) -> None:
    """UserError for isotropic networks and MMEarth's stem, which mmpretrain cannot build."""
    check_has_stages(weights, "mmpretrain")
    check_stem(weights, "mmpretrain")


MMPRETRAIN = Format(
    name="mmpretrain",
    matches=matches,
    to_timm=NAMES.to_timm,
    from_timm=from_timm,
    beside=CLASSIFIER.to_timm,
    held_as=(BACKBONE,),
    leftovers=(
        "norm0.",
        "norm1.",
        "norm2.",
        "data_preprocessor.",
        "neck.",
        "enc_dec_norms.",
        "enc_dec_projectors.",
        "mask_tokens.",  # SparK's decoder
        "ema_",  # mmcv's averages: one flat name each
    ),
    target=Target(
        layout=layout,
        check=check,
        prefix=lambda weights: BACKBONE,
        final_norm=True,
        entry="state_dict",
        weights_file="model.pth",  # mmengine does not read safetensors
        usage='init_cfg=dict(type="Pretrained", checkpoint="FOLDER/model.pth", prefix="backbone.")',
    ),
)

"""mmpretrain (OpenMMLab), with or without ``backbone.``."""

from collections.abc import Sequence

from fcmae.weights.formats.base import Format, Networks
from fcmae.weights.formats.names import Names, networks

NAMES = Names(
    [
        ("stem.0", "downsample_layers.0.0"),
        ("stem.1", "downsample_layers.0.1"),
        ("stages.{s}.downsample.{j}", "downsample_layers.{s}.{j}"),
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


MMPRETRAIN = Format(
    name="mmpretrain",
    matches=matches,
    to_timm=NAMES.to_timm,
    from_timm=from_timm,
    beside=CLASSIFIER.to_timm,
    held_as=("backbone.",),
    leftovers=("norm0.", "norm1.", "norm2.", "data_preprocessor.", "neck."),
)

"""What each format calls a parameter: one table, read in both directions.

Names of a format are those inside its network, after a prefix such as ``encoder.`` or ``convnextv2.``.
"""

import re
from functools import cache

FORMATS = ("timm", "official", "transformers", "mmpretrain")

# {s}: stage, {b}: block, {j}: 0 the norm, 1 the convolution (in the stem the converse). Tried from the top.
TABLE = [
    # timm, and ours      official, MMEarth           transformers                               mmpretrain
    ("stem.0", "downsample_layers.0.0", "embeddings.patch_embeddings", "downsample_layers.0.0"),
    ("stem.1", "downsample_layers.0.1", "embeddings.layernorm", "downsample_layers.0.1"),
    ("stem.{j}", "downsample_layers.0.{j}", "", ""),  # MMEarth's own stem
    ("stages.{s}.downsample.{j}", "downsample_layers.{s}.{j}", "encoder.stages.{s}.downsampling_layer.{j}",
     "downsample_layers.{s}.{j}"),
    ("stages.{s}.blocks.{b}.conv_dw", "stages.{s}.{b}.dwconv", "encoder.stages.{s}.layers.{b}.dwconv",
     "stages.{s}.{b}.depthwise_conv"),
    ("stages.{s}.blocks.{b}.norm", "stages.{s}.{b}.norm", "encoder.stages.{s}.layers.{b}.layernorm",
     "stages.{s}.{b}.norm"),
    ("stages.{s}.blocks.{b}.mlp.fc1", "stages.{s}.{b}.pwconv1", "encoder.stages.{s}.layers.{b}.pwconv1",
     "stages.{s}.{b}.pointwise_conv1"),
    ("stages.{s}.blocks.{b}.mlp.fc2", "stages.{s}.{b}.pwconv2", "encoder.stages.{s}.layers.{b}.pwconv2",
     "stages.{s}.{b}.pointwise_conv2"),
    ("stages.{s}.blocks.{b}.mlp.grn", "stages.{s}.{b}.grn", "encoder.stages.{s}.layers.{b}.grn",
     "stages.{s}.{b}.grn"),
    ("stages.{s}.blocks.{b}.gamma", "stages.{s}.{b}.gamma", "encoder.stages.{s}.layers.{b}.layer_scale_parameter",
     "stages.{s}.{b}.gamma"),
    ("head.norm", "norm", "layernorm", "norm3"),
    ("head.fc", "head", "", ""),  # of the other two it lies outside the network
]  # fmt: skip
# Modules that one format alone has: they tell it
TELLING = {
    "timm": ("conv_dw", "mlp.fc1", "mlp.fc2"),
    "official": ("dwconv", "pwconv1", "pwconv2"),
    "transformers": ("dwconv", "pwconv1", "pwconv2"),
    "mmpretrain": ("depthwise_conv", "pointwise_conv1", "pointwise_conv2"),
}
GRN_TO_TIMM = {"gamma": "weight", "beta": "bias"}  # official, mmpretrain, old transformers
GRN_FROM_TIMM = {name: old for old, name in GRN_TO_TIMM.items()}


def to_timm(name: str, format: str) -> str | None:
    """timm's name for a parameter of a format's network; None if that network has none of this name."""
    for pattern, timm_template in _rows(format, "timm"):
        if match := pattern.fullmatch(name):
            module, kind = timm_template.format(**match.groupdict()), match["kind"]
            if module.endswith(".grn"):
                kind = GRN_TO_TIMM.get(kind, kind)
            return f"{module}.{kind}" if kind else module
    return None


def from_timm(name: str, format: str) -> str | None:
    """A format's name for a parameter of timm's network; None if that format has no place for it."""
    for pattern, template in _rows("timm", format):
        if match := pattern.fullmatch(name):
            module, kind = template.format(**match.groupdict()), match["kind"]
            if module.endswith(".grn") and format in ("official", "mmpretrain"):
                kind = GRN_FROM_TIMM[kind]
            return f"{module}.{kind}" if kind else module
    return None


def find_networks(names: list[str]) -> dict[tuple[str, str], int]:
    """(format, prefix) of every ConvNeXt among these names, with how many names tell it."""
    found: dict[tuple[str, str], int] = {}
    for name in names:
        for format in FORMATS:
            if match := _telling(format).fullmatch(name):
                key = format, match["prefix"]
                found[key] = found.get(key, 0) + 1
    return found


@cache
def _telling(format: str) -> re.Pattern[str]:
    block = {
        "timm": r"stages\.\d+\.blocks\.\d+",
        "official": r"stages\.\d+\.\d+",
        "transformers": r"encoder\.stages\.\d+\.layers\.\d+",
        "mmpretrain": r"stages\.\d+\.\d+",
    }[format]
    modules = "|".join(map(re.escape, TELLING[format]))
    return re.compile(rf"(?P<prefix>(?:.*?\.)?){block}\.(?:{modules})\..*")


@cache
def _rows(source: str, target: str) -> list[tuple[re.Pattern[str], str]]:
    """Patterns of the source's names beside the target's templates."""
    columns = FORMATS.index(source), FORMATS.index(target)
    rows = []
    for row in TABLE:
        source_template, target_template = (row[column] for column in columns)
        if source_template and target_template:
            pattern = re.sub(r"\\{(\w)\\}", r"(?P<\1>[0-9]+)", re.escape(source_template))
            kind = "(?P<kind>)" if row[0].endswith(".gamma") else r"\.(?P<kind>weight|bias|gamma|beta)"
            rows.append((re.compile(pattern + kind), target_template))
    return rows

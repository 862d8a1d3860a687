"""timm's ConvNeXt. Its names are the ones that every format is translated to."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fcmae.data.crop_share import crop_share
from fcmae.data.normalizer import Pixels
from fcmae.errors import UserError
from fcmae.models.sizes import version_of
from fcmae.weights.formats.base import (
    CONFIG_JSON,
    EXPORTED_KEY,
    SEVERAL,
    Format,
    Networks,
    Stated,
    Target,
    read_json,
)
from fcmae.weights.formats.names import Names, networks
from fcmae.weights.weights import Weights

NOT_BUILT = 2  # from a folder, timm would build a stem of this stride with a first stage that downsamples too

MODULES = (
    "stem.{j}",
    "stages.{s}.downsample.{j}",
    "stages.{s}.blocks.{b}.conv_dw",
    "stages.{s}.blocks.{b}.norm",
    "stages.{s}.blocks.{b}.mlp.fc1",
    "stages.{s}.blocks.{b}.mlp.fc2",
    "stages.{s}.blocks.{b}.mlp.grn",
    "stages.{s}.blocks.{b}.gamma",
    "head.norm",
    "head.fc",
)
NAMES = Names([(module, module) for module in MODULES], grn="weight bias")


def matches(names: Sequence[str]) -> Networks:
    """By the modules of a block."""
    return networks(r"stages\.\d+\.blocks\.\d+\.(?:conv_dw|mlp\.fc1|mlp\.fc2)", names)


def mean_std(folder: Path) -> tuple[Any, Any] | None:
    """From ``pretrained_cfg``."""
    pretrained = read_json(folder / CONFIG_JSON).get("pretrained_cfg")
    if not isinstance(pretrained, dict) or "mean" not in pretrained:
        return None
    return pretrained["mean"], pretrained.get("std")


def model_args(weights: Weights) -> dict[str, Any]:
    """Arguments for ``timm.create_model`` where the network differs from the one of its name."""
    config, version = weights.config, version_of(weights.config.name)
    kwargs: dict[str, Any] = {}
    if config.with_grn != version.use_grn:
        kwargs["use_grn"] = config.with_grn
    if config.with_layer_scale != version.use_layer_scale:
        kwargs["ls_init_value"] = config.ls_init_value if config.with_layer_scale else None
    return kwargs


def image_hw(folder: Path) -> tuple[Any, Any] | None:
    """From ``pretrained_cfg``."""
    content = read_json(folder / CONFIG_JSON)
    pretrained = content.get("pretrained_cfg") if str(content.get("architecture")).startswith("convnext") else None
    size = pretrained.get("input_size") if isinstance(pretrained, dict) else None
    return (size[1], size[2]) if isinstance(size, list) and len(size) == 3 else None


def _config(weights: Weights, pixels: Pixels, stated: Stated) -> dict[str, Any]:
    config = weights.config
    if weights.has_mmearth_stem or config.stride == NOT_BUILT:
        what = "MMEarth's stem" if weights.has_mmearth_stem else f"a stem of stride {config.stride}"
        raise UserError(
            f"{weights.origin} has {what}, which timm cannot build from a folder; use fcmae.create_dense, or write the "
            f"weights alone to a .safetensors file"
        )
    stem = {"in_chans": config.in_chans} if config.in_chans != 3 else {}
    stem |= {"patch_size": config.stride} if config.stride != config.size.stem_stride else {}
    size, names = list(config.image_hw), stated.names(weights.num_classes)
    more: dict[str, Any] = {} if names is None else {"label_names": list(names)}
    more |= {"problem_type": SEVERAL} if weights.num_classes and stated.is_multi_label else {}
    if exported := pixels.exported():
        more[EXPORTED_KEY] = exported
    return {
        "architecture": config.name,
        "num_classes": weights.num_classes,
        "num_features": config.size.dims[-1],
        "global_pool": "avg",
        "model_args": model_args(weights) | stem,
        "pretrained_cfg": {
            "tag": "fcmae",
            "input_size": [config.in_chans, *size],
            "fixed_input_size": False,
            "interpolation": "bicubic",
            "crop_pct": crop_share(stated.crop_pct, config.image_hw),
            "crop_mode": "center",
            "mean": list(pixels.mean),
            "std": list(pixels.std),
            "num_classes": weights.num_classes,
            "pool_size": [side // config.patch_size for side in size],
            "first_conv": "stem.0",
            "classifier": "head.fc",
        },
    } | more


TIMM = Format(
    name="timm",
    matches=matches,
    to_timm=NAMES.to_timm,
    from_timm=NAMES.from_timm,
    target=Target(
        final_norm=True,
        folder_files={CONFIG_JSON: _config},
        module="timm",
        usage='timm.create_model("local-dir:FOLDER", pretrained=True)',
    ),
    mean_std=mean_std,
    image_hw=image_hw,
)

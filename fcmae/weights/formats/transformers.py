"""Hugging Face transformers: ConvNextV2Model, ConvNextModel, their backbones and classifiers."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fcmae.data.crop_share import FULL_CROP_FROM, crop_share
from fcmae.data.normalizer import Pixels
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
from fcmae.weights.formats.official import check_has_stages, check_original, linear_layout
from fcmae.weights.weights import Weights

PREPROCESSOR = "preprocessor_config.json"
BICUBIC = 3  # Pillow's number

NAMES = Names(
    [
        ("stem.0", "embeddings.patch_embeddings"),
        ("stem.1", "embeddings.layernorm"),
        ("stages.{s}.downsample.{j}", "encoder.stages.{s}.downsampling_layer.{j}"),
        ("stages.{s}.blocks.{b}.conv_dw", "encoder.stages.{s}.layers.{b}.dwconv"),
        ("stages.{s}.blocks.{b}.norm", "encoder.stages.{s}.layers.{b}.layernorm"),
        ("stages.{s}.blocks.{b}.mlp.fc1", "encoder.stages.{s}.layers.{b}.pwconv1"),
        ("stages.{s}.blocks.{b}.mlp.grn", "encoder.stages.{s}.layers.{b}.grn"),
        ("stages.{s}.blocks.{b}.mlp.fc2", "encoder.stages.{s}.layers.{b}.pwconv2"),
        ("stages.{s}.blocks.{b}.gamma", "encoder.stages.{s}.layers.{b}.layer_scale_parameter"),
        ("head.norm", "layernorm"),
    ],
    grn="weight bias",  # older releases: gamma and beta
)
CLASSIFIER = Names([("head.fc", "classifier")])


def matches(names: Sequence[str]) -> Networks:
    """By the modules of a block."""
    return networks(r"encoder\.stages\.\d+\.layers\.\d+\.(?:dwconv|pwconv1|pwconv2)", names)


def from_timm(name: str) -> str | None:
    """Also for the classifier, which lies beside the network."""
    return NAMES.from_timm(name) or CLASSIFIER.from_timm(name)


def check(weights: Weights) -> None:
    """UserError for what transformers has no network for."""
    check_has_stages(weights, "transformers")
    check_original(weights, "transformers")


def prefix(weights: Weights) -> str:
    """Only classifiers have one."""
    if not weights.num_classes:
        return ""
    return "convnextv2." if weights.config.with_grn else "convnext."


def mean_std(folder: Path) -> tuple[Any, Any] | None:
    """From the image processor's configuration."""
    preprocessor = read_json(folder / PREPROCESSOR)
    return (preprocessor["image_mean"], preprocessor.get("image_std")) if "image_mean" in preprocessor else None


def image_hw(folder: Path) -> tuple[Any, Any] | None:
    """The crop of the image processor, else the network's size: of published networks that is not the crop's."""
    content = read_json(folder / CONFIG_JSON)
    if not str(content.get("model_type")).startswith("convnext"):
        return None
    preprocessor, own = read_json(folder / PREPROCESSOR), content.get("image_size")
    if isinstance(own, list) and len(own) == 2:  # only ours: a rectangle
        return own[0], own[1]
    for one in (preprocessor.get("crop_size"), preprocessor.get("size"), own):
        if isinstance(one, dict) and {"height", "width"} <= one.keys():
            return one["height"], one["width"]
        side = one.get("shortest_edge") if isinstance(one, dict) else one
        if isinstance(side, int):
            return side, side
    return None


def crop_pct(folder: Path) -> float | None:
    """Of the image processor; that of ConvNeXt takes whole images from 384² on."""
    said, size = read_json(folder / PREPROCESSOR), image_hw(folder)
    kind = str(said.get("image_processor_type") or said.get("feature_extractor_type"))
    is_whole = kind.startswith("ConvNext") and size is not None and min(size) >= FULL_CROP_FROM
    return 1.0 if is_whole else said.get("crop_pct")


def _config(weights: Weights, pixels: Pixels, stated: Stated) -> dict[str, Any]:
    config, classes = weights.config, weights.num_classes
    version = "V2" if config.with_grn else ""
    values: dict[str, Any] = {
        "architectures": [f"ConvNext{version}{'ForImageClassification' if classes else 'Model'}"],
        "model_type": f"convnext{version.lower()}",
        "depths": list(config.size.depths),
        "hidden_sizes": list(config.size.dims),
        "num_stages": len(config.size.depths),
        "num_channels": config.in_chans,
        "patch_size": config.stride,
        "image_size": config.image_hw[0] if config.image_hw[0] == config.image_hw[1] else list(config.image_hw),
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "drop_path_rate": 0.0,
        "initializer_range": 0.02,
        "dtype": str(next(iter(weights.encoder.values())).dtype).removeprefix("torch."),
    }
    if not version:
        values["layer_scale_init_value"] = config.ls_init_value if config.with_layer_scale else 0.0
    if classes:
        names = stated.names(classes) or tuple(f"LABEL_{n}" for n in range(classes))
        values["id2label"] = {str(n): name for n, name in enumerate(names)}
        values["label2id"] = {name: n for n, name in enumerate(names)}
        values |= {"problem_type": SEVERAL} if stated.is_multi_label else {}
    if exported := pixels.exported():
        values[EXPORTED_KEY] = exported
    return values


def value_range(folder: Path) -> tuple[float, float] | None:
    """From the image processor's ``rescale_factor``."""
    factor = read_json(folder / PREPROCESSOR).get("rescale_factor")
    if not isinstance(factor, int | float) or not factor > 0 or math.isclose(factor, 1 / 255, rel_tol=1e-3):
        return None
    return 0.0, 1 / factor


def _preprocessor(weights: Weights, pixels: Pixels, stated: Stated) -> dict[str, Any]:
    """Resize and center crop, as in validation. (ConvNextImageProcessor squeezes to a square from 384² on.)

    Images of another shape than a rectangular network's are squeezed into it: no processor crops first.
    """
    factor, mean, std = pixels.of_raw_values()
    height, width = weights.config.image_hw
    crop_pct = crop_share(stated.crop_pct, (height, width))
    rows, columns = int(height / crop_pct), int(width / crop_pct)
    return {
        "image_processor_type": "BitImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": rows} if height == width else {"height": rows, "width": columns},
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "crop_pct": crop_pct,  # not read by the processor
        "resample": BICUBIC,
        "do_rescale": True,
        "rescale_factor": factor,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }


TRANSFORMERS = Format(
    name="transformers",
    matches=matches,
    to_timm=NAMES.to_timm,
    from_timm=from_timm,
    beside=CLASSIFIER.to_timm,
    held_as=("convnextv2.", "convnext."),
    leftovers=("hidden_states_norms.",),  # a backbone's norms of its outputs
    published=True,
    target=Target(
        layout=linear_layout,
        check=check,
        prefix=prefix,
        final_norm=True,
        folder_files={CONFIG_JSON: _config, PREPROCESSOR: _preprocessor},
        module="transformers",
        usage='transformers.AutoModel.from_pretrained("FOLDER")',
        classifier_usage='transformers.AutoModelForImageClassification.from_pretrained("FOLDER")',
    ),
    mean_std=mean_std,
    image_hw=image_hw,
    value_range=value_range,
)

"""Converted weights on disk, as the library that is to use them expects to find them."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from fcmae.data.normalizer import Normalizer
from fcmae.errors import UserError
from fcmae.files import replacing, write_text
from fcmae.models import ModelConfig
from fcmae.runs.checkpoint import FOLDER, MODEL, OPTIMIZER, STATE
from fcmae.weights.convert import Conversion
from fcmae.weights.dense import TIMM_STEM_STRIDE, ablations
from fcmae.weights.names import from_timm
from fcmae.weights.settings import normalization

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
TIMM_FOLDER_STRIDES = (1, TIMM_STEM_STRIDE)  # with a stem of stride 2 timm's first stage would downsample too
FILES = (".safetensors", ".pt", ".pth", ".bin")
CROP_PCT = 0.875
BICUBIC = 3  # Pillow's number


def write(
    conversion: Conversion, ckpt: object, dst: Path, format: str, overwrite: bool = False
) -> tuple[list[Path], dict[str, Tensor]]:
    """Write a folder that the library loads, or, if ``dst`` has the ending of a file, the weights alone.

    A folder for timm (``timm.create_model("local-dir:DST")``) and for transformers (``from_pretrained(DST)``) holds
    ``model.safetensors`` and ``config.json``, for transformers also the preprocessor's. Networks of both libraries have
    a final norm; where the checkpoint has none, it is written as it starts out: weight 1, bias 0.

    Returns:
        The files written, and the tensors in them.

    Raises:
        UserError: something is there already, or the library cannot build this network from a folder.
    """
    inside = dst.parent if dst.name in (MODEL, OPTIMIZER, STATE) else dst  # a file of a checkpoint, or a folder
    if (inside / STATE).exists() or (dst / FOLDER).exists():
        raise UserError(f"{inside} holds a run or a checkpoint, which would be lost; give another DST")
    if dst.exists() and not overwrite and not (dst.is_dir() and not any(dst.iterdir())):
        raise UserError(f"{dst} exists; give another DST, or --overwrite")
    if dst.suffix in FILES:
        if dst.is_dir():
            raise UserError(f"{dst} is a folder; a name that ends in {dst.suffix} is taken for a file")
        with replacing(dst) as file:
            _save(conversion.state, file, dst.suffix, wrapped=format == "official")
        return [dst], conversion.state
    if dst.is_file():
        raise UserError(f"{dst} is a file; give a folder, or a name that ends in {' '.join(FILES)}")
    config = conversion.weights.config
    pixels = normalization(ckpt, config.in_chans)
    texts: dict[str, dict[str, Any]] = {}
    if format == "timm":
        texts[CONFIG] = _timm_config(conversion, pixels)
    elif format == "transformers":
        texts[CONFIG] = _transformers_config(conversion)
        texts[PREPROCESSOR] = _preprocessor(config, pixels)
    state = conversion.state if format == "official" else _with_norm(conversion, format)
    dst.mkdir(parents=True, exist_ok=True)
    if (dst / MODEL).exists():  # of another format, overwritten
        for stale in {CONFIG, PREPROCESSOR} - texts.keys():
            (dst / stale).unlink(missing_ok=True)
    with replacing(dst / MODEL) as file:
        _save(state, file, ".safetensors")
    for name, values in texts.items():
        write_text(dst / name, json.dumps(values, indent=2) + "\n")
    return [dst / MODEL, *(dst / name for name in texts)], state


def _save(state: dict[str, Tensor], file: Path, suffix: str, wrapped: bool = False) -> None:
    seen: set[int] = set()
    separate = {}
    for name, tensor in state.items():
        place = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if place in seen else tensor.contiguous()  # tied, or views of one buffer
        seen.add(place)
    try:
        if suffix == ".safetensors":
            save_file(separate, file, metadata={"format": "pt"})
        else:
            torch.save({"model": separate} if wrapped else separate, file)  # wrapped as the official code reads them
    except (SafetensorError, RuntimeError) as error:  # what the two libraries make of a full disk
        raise OSError(f"{file.parent} cannot be written to: {' '.join(str(error).split())}") from error


def _with_norm(conversion: Conversion, format: str) -> dict[str, Tensor]:
    if any(name.startswith("head.norm.") for name in conversion.weights.head):
        return conversion.state
    like = next(iter(conversion.state.values()))
    width = conversion.weights.config.size.dims[-1]
    name = {kind: conversion.prefix + str(from_timm(f"head.norm.{kind}", format)) for kind in ("weight", "bias")}
    return conversion.state | {name["weight"]: like.new_ones(width), name["bias"]: like.new_zeros(width)}


def _num_classes(conversion: Conversion) -> int:
    classifier = conversion.weights.head.get("head.fc.weight")
    return 0 if classifier is None else len(classifier)


def _timm_config(conversion: Conversion, pixels: Normalizer) -> dict[str, Any]:
    weights = conversion.weights
    config = weights.config
    if weights.has_mmearth_stem or config.stem_stride not in TIMM_FOLDER_STRIDES:
        what = "MMEarth's stem" if weights.has_mmearth_stem else f"a stem of stride {config.stem_stride}"
        raise UserError(
            f"{weights.origin} has {what}, which timm cannot build from a folder; use fcmae.create_dense, or write the "
            f"weights alone to a .safetensors file"
        )
    stem = {"in_chans": config.in_chans} if config.in_chans != 3 else {}
    stem |= {"patch_size": config.stem_stride} if config.stem_stride != TIMM_STEM_STRIDE else {}
    size = list(config.image_hw)
    return {
        "architecture": config.name,
        "num_classes": _num_classes(conversion),
        "num_features": config.size.dims[-1],
        "global_pool": "avg",
        "model_args": ablations(weights) | stem,
        "pretrained_cfg": {
            "tag": "fcmae",
            "input_size": [config.in_chans, *size],
            "fixed_input_size": False,
            "interpolation": "bicubic",
            "crop_pct": CROP_PCT,
            "crop_mode": "center",
            "mean": list(pixels.mean),
            "std": list(pixels.std),
            "num_classes": _num_classes(conversion),
            "pool_size": [side // config.patch_size for side in size],
            "first_conv": "stem.0",
            "classifier": "head.fc",
        },
    }


def _transformers_config(conversion: Conversion) -> dict[str, Any]:
    weights = conversion.weights
    config, classes = weights.config, _num_classes(conversion)
    version = "V2" if config.with_grn else ""
    values: dict[str, Any] = {
        "architectures": [f"ConvNext{version}{'ForImageClassification' if classes else 'Model'}"],
        "model_type": f"convnext{version.lower()}",
        "depths": list(config.size.depths),
        "hidden_sizes": list(config.size.dims),
        "num_stages": len(config.size.depths),
        "num_channels": config.in_chans,
        "patch_size": config.stem_stride,
        "image_size": config.image_hw[0] if config.image_hw[0] == config.image_hw[1] else list(config.image_hw),
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "drop_path_rate": 0.0,
        "initializer_range": 0.02,
        "dtype": str(next(iter(conversion.state.values())).dtype).removeprefix("torch."),
    }
    if not version:
        values["layer_scale_init_value"] = config.ls_init_value if config.with_layer_scale else 0.0
    if classes:
        values["id2label"] = {str(n): f"LABEL_{n}" for n in range(classes)}
        values["label2id"] = {f"LABEL_{n}": n for n in range(classes)}
    return values


def _preprocessor(config: ModelConfig, pixels: Normalizer) -> dict[str, Any]:
    return {
        "image_processor_type": "ConvNextImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": min(config.image_hw)},
        "crop_pct": CROP_PCT,
        "resample": BICUBIC,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(pixels.mean),
        "image_std": list(pixels.std),
    }

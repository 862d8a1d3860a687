"""FCMAE weights as a dense network's, key by key: the encoder's parameters have dense shapes and timm's names."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fcmae.checkpoint import MODEL, read_model, resolve_checkpoint
from fcmae.errors import UserError
from fcmae.models import ModelConfig, SparseConvNeXt
from fcmae.models.sizes import SIZES, version_of

logger = logging.getLogger(__name__)

FORMATS = ("timm",)
ENCODER = "encoder."
# What a state dict may hold beside an encoder
NOT_ENCODER = ("decoder.", "head.")


def convert_to_dense(ckpt: str | Path | Mapping[str, Tensor], format: str = "timm") -> dict[str, Tensor]:
    """The encoder's weights under a dense network's names.

    ``timm.create_model(name, num_classes=0).load_state_dict(state, strict=False)`` then lacks ``head.norm`` alone,
    which an encoder does not have. (A network with ``stem_stride`` 1 or 2 has a stem of that kernel and stride: put
    ``torch.nn.Conv2d(in_chans, dim, s, s)`` in the place of the timm model's ``stem[0]`` first.)

    Args:
        ckpt: a run folder, a checkpoint folder, a ``.safetensors`` file written by fcmae, or a state dict: an FCMAE's,
            an encoder's, or one that is converted already, which comes back unchanged.
        format: "timm".

    Returns:
        A dict of tensors: shapes and dtypes as they were, no copy.

    Raises:
        ValueError: an unknown format, no checkpoint at the path, or keys that are missing, extra or of a wrong shape.
    """
    if format not in FORMATS:
        raise UserError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    return whole_encoder(ckpt)[0]


def whole_encoder(ckpt: str | Path | Mapping[str, Tensor]) -> tuple[dict[str, Tensor], ModelConfig]:
    """The encoder's weights under timm's names, checked, and the configuration that they are of."""
    source, tensors, config = _load(ckpt)
    state = _encoder_part(tensors)
    config = config or _guess_config(state, source)
    expected = _expected_shapes(config)
    missing = sorted(expected.keys() - state.keys())
    extra = sorted(state.keys() - expected.keys())
    wrong = sorted(k for k in state.keys() & expected.keys() if state[k].shape != expected[k])
    problems = [f"missing {', '.join(missing)}"] if missing else []
    problems += [f"not of this encoder: {', '.join(extra)}"] if extra else []
    problems += [f"{k} is {list(state[k].shape)}, expected {list(expected[k])}" for k in wrong]
    if problems:
        raise UserError(f"{source} does not hold one whole encoder: {'; '.join(problems)}")
    left = len(tensors) - len(state)
    if left:
        logger.info("%s: %d tensors of the decoder or head have no place in a dense encoder", source, left)
    return state, config


def _load(ckpt: str | Path | Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor], ModelConfig | None]:
    """Where the tensors are from, the tensors, and the configuration if the file tells it."""
    if isinstance(ckpt, Mapping):
        strangers = [str(k) for k, v in ckpt.items() if not isinstance(v, Tensor)]
        if strangers:
            raise UserError(f"a state dict maps names to tensors; these are none: {', '.join(strangers[:5])}")
        return "the state dict", dict(ckpt), None
    path = Path(ckpt)
    if path.is_file() and path.suffix != ".safetensors" and path.name != "last":
        raise UserError(
            f"{path} is no .safetensors file; give a run folder, a checkpoint folder or a .safetensors file"
        )
    file = path if path.suffix == ".safetensors" else resolve_checkpoint(path) / MODEL
    if not file.is_file():
        raise UserError(f"{file} does not exist")
    tensors, config = read_model(file)
    return str(file), tensors, None if config is None else _model_config(config)


def _model_config(plain: dict[str, Any]) -> ModelConfig:
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
    return ModelConfig(**fields | {"backend": "auto"})  # the one of training may not be installed here


def _encoder_part(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keys of the encoder, without prefixes that wrappers (DDP, torch.compile) put before it."""
    bare = {k.removeprefix("module.").removeprefix("_orig_mod."): v for k, v in tensors.items()}
    if any(k.startswith(ENCODER) for k in bare):
        return {k.removeprefix(ENCODER): v for k, v in bare.items() if k.startswith(ENCODER)}
    return {k: v for k, v in bare.items() if not k.startswith(NOT_ENCODER)}


def _expected_shapes(config: ModelConfig) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {k: v.shape for k, v in SparseConvNeXt(config).state_dict().items()}


def _guess_config(state: dict[str, Tensor], source: str) -> ModelConfig:
    """The configuration whose encoder has these depths and widths."""
    depths = tuple(
        len({k.split(".")[3] for k in state if k.startswith(f"stages.{stage}.blocks.")}) for stage in range(4)
    )
    dims = tuple(
        next(
            (v.shape[0] for k, v in state.items() if k.startswith(f"stages.{s}.blocks.") and k.endswith("norm.bias")), 0
        )
        for s in range(4)
    )
    stem = state.get("stem.0.weight")
    if stem is None or stem.ndim != 4:
        some = ", ".join(sorted(state)[:3]) or "nothing"
        raise UserError(f"{source} does not hold an fcmae or timm ConvNeXt encoder: no stem.0.weight in it, but {some}")
    with_grn = any(k.endswith("grn.weight") for k in state)
    with_scale = any(k.endswith("gamma") for k in state)
    names = [name for name, size in SIZES.items() if (size.depths, size.dims) == (depths, dims)]
    if not names:
        raise UserError(f"{source} does not hold one whole encoder: no size has depths {depths} and dims {dims}")
    name = next((n for n in names if version_of(n).use_grn == with_grn), names[0])
    return ModelConfig(
        name=name,
        img_size=stem.shape[-1] * 8,
        in_chans=stem.shape[1],
        stem_stride=stem.shape[-1],
        use_grn=with_grn,
        use_layer_scale=with_scale,
    )

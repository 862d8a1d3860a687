"""Opens whatever holds weights: folders, safetensors, shards, pickles (without running their code), nested dicts."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fcmae.errors import UserError
from fcmae.models import ModelConfig
from fcmae.runs.checkpoint import read_model
from fcmae.runs.find import AVERAGE, BEST, FOLDER, check_contents
from fcmae.weights.entries import find_state_dict, say_which
from fcmae.weights.lookalikes import TORCH
from fcmae.weights.place import INDEX, check_file, weights_file
from fcmae.weights.shards import index_of, indexed_shards
from fcmae.weights.unpickle import unpickled

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Tensors as found."""

    origin: str
    """File, or "the state dict": begins every message."""
    tensors: dict[str, Tensor]
    config: ModelConfig | None = None
    """From the file's header; only this toolkit writes one."""
    left: list[str] = field(default_factory=list)
    """Other entries besides the weights: optimizer, epoch, …"""
    args: Mapping[str, Any] = field(default_factory=dict)
    """The arguments that the official training script saves along."""


def open_source(ckpt: str | Path | Mapping[str, Any], allow_pickle: bool = False, use_ema: bool = True) -> Source:
    """The tensors of a run folder, a checkpoint folder, a file or a state dict.

    Args:
        ckpt: where they are; a folder of transformers or timm counts as a checkpoint folder.
        allow_pickle: unpickle whatever a file holds, which runs code that the file brings.
        use_ema: of averaged and plain weights, take the averaged ones.

    Raises:
        UserError: nothing there, a file that is damaged or would run code, or no state dict in it.
    """
    if isinstance(ckpt, Mapping | nn.Module):
        return _from_object(ckpt, "the state dict", use_ema)
    if not isinstance(ckpt, str | Path):
        raise UserError(f"weights come as a path or a state dict, got {type(ckpt).__name__}")
    file = weights_file(ckpt)
    if file.parent.name == BEST and Path(ckpt).name not in (BEST, file.name):
        logger.info("%s was fine-tuned: its best weights by validation, %s/%s, are taken", ckpt, FOLDER, BEST)
    if (average := file.with_name(AVERAGE)).is_file() and file != Path(ckpt):  # of a run of fine-tuning
        say_which(str(file.parent), AVERAGE, file.name, use_ema)
        file = average if use_ema else file
    if file.name.endswith(INDEX):
        found: dict[str, Any] = {}
        for shard in indexed_shards(file):
            found |= _contents(shard, allow_pickle)[0]
        return _from_object(found, str(file), use_ema)
    if index := index_of(file):
        raise UserError(f"{file} is one of several files; give {index}, or their folder")
    contents, plain = _contents(file, allow_pickle)
    source = _from_object(contents, str(file), use_ema)
    return source if plain is None else Source(source.origin, source.tensors, model_config(plain))


def model_config(plain: dict[str, Any], backend: str = "auto") -> ModelConfig:
    """From a checkpoint's header. The backend of training may not be installed here, so another is set."""
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
    try:
        return ModelConfig(**fields | {"backend": backend})
    except (TypeError, ValueError) as error:  # of a later version, with fields that this one lacks
        raise UserError(f"the checkpoint's configuration is not understood: {error}") from None


def _contents(file: Path, allow_pickle: bool) -> tuple[Any, dict[str, Any] | None]:
    """What a file holds, and the configuration in its header."""
    if file.is_file():  # what is missing is read_model's to say
        check_file(file)
        check_contents(file)
    with file.open("rb") as opened:
        start = opened.read(16)
    if start[8:9] == b"{":  # safetensors: a length, then JSON. Either kind is found under the other's name
        return read_model(file)
    if file.suffix == ".safetensors" and not start.startswith(TORCH):
        return read_model(file)
    return unpickled(file, allow_pickle), None


def _from_object(found: Any, origin: str, use_ema: bool) -> Source:
    state = find_state_dict(found, origin, use_ema)
    return Source(origin, state.tensors, None, state.left, state.args)

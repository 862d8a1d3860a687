"""Opens whatever holds weights: folders, safetensors, pickles (without running their code), nested dicts."""

import argparse
import logging
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fcmae.errors import UserError
from fcmae.models import ModelConfig
from fcmae.runs.checkpoint import LAST, MODEL, read_model, resolve_checkpoint

logger = logging.getLogger(__name__)

PICKLED = "pytorch_model.bin"
# Checkpoint entries that may hold the weights, most likely first
ENTRIES = ("model", "state_dict", "model_state_dict", "module", "net", "model_ema", "state_dict_ema")

# torch's message: "Trying to load unsupported GLOBAL posix.mkdir whose …", "Unsupported global: GLOBAL a.B was not …"
REFUSED = re.compile(r"(?:GLOBAL|class) ([\w.]+\w)")


class Source(NamedTuple):
    """Tensors as found."""

    origin: str
    """File, or "the state dict": begins every message."""
    tensors: dict[str, Tensor]
    config: ModelConfig | None
    """From the file's header; only this toolkit writes one."""
    left: list[str]
    """Other entries besides the weights: optimizer, epoch, …"""


def open_source(ckpt: str | Path | Mapping[str, Any], allow_pickle: bool = False) -> Source:
    """The tensors of a run folder, a checkpoint folder, a file or a state dict.

    Args:
        ckpt: where they are; a folder of transformers or timm counts as a checkpoint folder.
        allow_pickle: unpickle whatever a file holds, which runs code that the file brings.

    Raises:
        UserError: nothing there, a file that is damaged or would run code, or no state dict in it.
    """
    if isinstance(ckpt, Mapping | nn.Module):
        return _from_object(ckpt, "the state dict")
    if not isinstance(ckpt, str | Path):
        raise UserError(f"weights come as a path or a state dict, got {type(ckpt).__name__}")
    file = _file_of(Path(ckpt))
    if file.stat().st_size == 0:
        raise UserError(f"{file} is empty")
    if not _is_safetensors(file):
        return _from_object(_unpickled(file, allow_pickle), str(file))
    tensors, plain = read_model(file)
    return Source(str(file), tensors, model_config(plain) if plain else None, [])


def model_config(plain: dict[str, Any], backend: str = "auto") -> ModelConfig:
    """From a checkpoint's header. The backend of training may not be installed here, so another is set."""
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
    try:
        return ModelConfig(**fields | {"backend": backend})
    except (TypeError, ValueError) as error:  # of a later version, with fields that this one lacks
        raise UserError(f"the checkpoint's configuration is not understood: {error}") from None


def _file_of(path: Path) -> Path:
    if path.is_file() and path.name != LAST:
        return path
    if (path / PICKLED).is_file() and not (path / MODEL).is_file():
        return path / PICKLED
    if path.suffix in (".safetensors", ".pt", ".pth", ".bin") and not path.exists():
        raise UserError(f"{path} does not exist")
    return resolve_checkpoint(path) / MODEL


def _is_safetensors(file: Path) -> bool:
    """By content: both kinds are found under the other's name. (A safetensors file: a length, then JSON.)"""
    with file.open("rb") as opened:
        start = opened.read(9)
    return start[8:] == b"{" or (file.suffix == ".safetensors" and not start.startswith((b"PK", b"\x80")))


def _unpickled(file: Path, allow_pickle: bool) -> Any:
    """What torch.save wrote; of classes, tensors and plain data alone, and the official code's argparse namespace."""
    try:
        with file.open("rb") as opened, torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(opened, map_location="cpu", weights_only=not allow_pickle)
    except pickle.UnpicklingError as error:
        text = str(error)
        if not allow_pickle and (refused := REFUSED.search(text)):
            raise UserError(
                f"{file} holds more than tensors ({refused[1]}), and loading it would run code that it brings. If you "
                f"trust it: python -m fcmae.convert {file} NEW.safetensors --allow_pickle (in Python allow_pickle=True)"
            ) from None
        raise UserError(f"{file} cannot be read; it is neither a torch nor a safetensors file") from None
    except Exception as error:  # torch raises anything from EOFError to RuntimeError for a truncated file
        raise UserError(f"{file} cannot be read; is it truncated? {_first_line(str(error))}") from error


def _first_line(text: str) -> str:
    return " ".join(text.split())[:160]


def _from_object(found: Any, origin: str) -> Source:
    """Down through {"model": …} and the like to the state dict."""
    left: list[str] = []
    while isinstance(found, Mapping):
        entry = next((e for e in ENTRIES if isinstance(found.get(e), Mapping | nn.Module)), None)
        if entry is None:
            break
        left += [str(name) for name in found if name != entry]
        found = found[entry]
    if isinstance(found, nn.Module):
        found = found.state_dict()
    if not isinstance(found, Mapping):
        raise UserError(f"{origin} holds {type(found).__name__}, not a state dict")
    strangers = [str(k) for k, v in found.items() if not isinstance(v, Tensor)]
    if strangers:
        raise UserError(f"{origin}: a state dict maps names to tensors; not tensors: {', '.join(strangers[:5])}")
    return Source(origin, {str(k): v for k, v in found.items()}, None, left)

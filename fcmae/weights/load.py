"""Runs back to networks: an FCMAE as it was trained, decoder included, and what its images were like."""

from pathlib import Path

import yaml

from fcmae.checkpoint import MODEL, read_model, resolve_checkpoint
from fcmae.config import DataConfig
from fcmae.errors import UserError
from fcmae.models import FCMAE, ModelConfig


def load_model(ckpt: str | Path, backend: str = "auto") -> FCMAE:
    """The FCMAE of a run of this toolkit, encoder and decoder, in eval mode.

    Args:
        ckpt: a run folder (its newest checkpoint), a checkpoint folder, or its ``model.safetensors``.
        backend: as of :class:`fcmae.ModelConfig`; the one of training may not be installed here.

    Raises:
        ValueError: no checkpoint there, or one that is damaged or not of this toolkit.
    """
    file = _model_file(ckpt)
    tensors, plain = read_model(file)
    if plain is None:
        raise UserError(f"{file} was not written by fcmae.pretrain; it has no configuration in its header")
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
    model = FCMAE(ModelConfig(**fields | {"backend": backend}), mask_ratio=_run_value(file, "train", "mask_ratio", 0.6))
    try:
        model.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise UserError(f"{file} does not hold the network it describes: {' '.join(str(error).split())}") from None
    return model.eval()


def normalisation(ckpt: str | Path, in_chans: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel that the images of a run had; ImageNet's where no run says."""
    file = _model_file(ckpt)
    mean, std = (_run_value(file, "data", name, None) for name in ("mean", "std"))
    return DataConfig(mean=mean and tuple(mean), std=std and tuple(std)).mean_std(in_chans)


def _model_file(ckpt: str | Path) -> Path:
    path = Path(ckpt)
    return path if path.suffix == ".safetensors" else resolve_checkpoint(path) / MODEL


def _run_value(file: Path, group: str, name: str, default):  # type: ignore[no-untyped-def]
    """A setting from the config.yaml of the run that a checkpoint's file lies in, if it lies in one."""
    config = file.parent.parent.parent / "config.yaml"
    if not config.is_file():
        return default
    value = (yaml.safe_load(config.read_text()) or {}).get(group, {}).get(name)
    return default if value is None else value

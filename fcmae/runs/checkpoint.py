"""Checkpoints, written atomically.

    RUN/checkpoints/step-00001200/
        model.safetensors   parameters; the model's configuration as JSON in the header
        optimizer.pt        AdamW's state
        state.json          step, effective batch size, the losses not yet logged
    RUN/checkpoints/last    a text file with the name of the newest

A checkpoint is written under a temporary name, synced to disk and renamed; then ``last`` is updated. So ``last`` names
a complete checkpoint even if the process dies while saving.
"""

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fcmae.errors import UserError
from fcmae.files import replacing, sync, write_text
from fcmae.runs.utf8_path import utf8_path

FOLDER, LAST = "checkpoints", "last"
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.pt", "state.json"
PREFIX = "step-"


@dataclass(frozen=True)
class TrainState:
    """Training progress, without weights and optimizer state."""

    step: int
    """Optimizer steps done."""
    effective_batch: int
    """Images per step; must not change on resuming, because the sample stream would shift."""
    samples_per_epoch: int
    """Samples per epoch of the stream; a different number changes the order of samples."""
    images_digest: str = ""
    """Digest of the image names, in order."""
    pending_losses: list[float] = field(default_factory=list)
    """Losses of the steps since the last line of metrics.jsonl."""


def save_checkpoint(
    run: Path, model: nn.Module, config: dict[str, Any], optimizer: torch.optim.Optimizer, state: TrainState
) -> Path:
    """Write the checkpoint of ``state.step`` and make it ``last``; returns its folder."""
    folder = run / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{PREFIX}{state.step:08d}"
    partial = folder / f".partial-{target.name}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    try:
        with replacing(partial / MODEL) as file:
            save_file(tensors, file, metadata={"format": "pt", "fcmae_model": json.dumps(config)})
        torch.save(optimizer.state_dict(), partial / OPTIMIZER)
        (partial / STATE).write_text(json.dumps(asdict(state)) + "\n")
        for file in partial.iterdir():
            sync(file)
        sync(partial)
    except (SafetensorError, RuntimeError) as error:  # how safetensors and torch report a full disk
        raise OSError(f"{partial} cannot be written: {' '.join(str(error).split())}") from error
    shutil.rmtree(target, ignore_errors=True)  # left by a process that died before updating `last`
    partial.rename(target)
    sync(folder)
    write_text(folder / LAST, target.name + "\n")
    return target


def load_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainState:
    """Load a checkpoint's weights and optimizer state in place.

    Raises:
        UserError: a file is missing, damaged, or belongs to another model.
    """
    state = read_state(folder)
    tensors, _ = read_model(folder / MODEL)
    try:
        model.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise UserError(f"{folder / MODEL} is of another model: {' '.join(str(error).split())}") from None
    try:
        saved = torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True)
        optimizer.load_state_dict(saved)
    except Exception as error:  # torch raises anything from OSError to UnpicklingError for a damaged file
        raise UserError(f"{folder / OPTIMIZER} cannot be read: {' '.join(str(error).split())}") from error
    return state


def read_state(folder: Path) -> TrainState:
    """The state of a checkpoint folder; UserError if it is missing or damaged."""
    try:
        return TrainState(**json.loads((folder / STATE).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder / STATE} cannot be read, so {folder} is not a complete checkpoint: {error}") from None


def read_model(file: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Tensors of a .safetensors file, and the model's configuration if fcmae wrote the file."""
    try:
        with utf8_path(file) as path, safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # not a dict
        config = json.loads(metadata.get("fcmae_model", "null"))
    except Exception as error:  # safetensors' own error class, OSError, and more
        raise UserError(f"{file} cannot be read: {error}") from error
    if not isinstance(config, dict | None):
        raise UserError(f"{file} cannot be read: expected a configuration in its header, got {config!r}")
    return tensors, config


def last_checkpoint(run: Path) -> Path | None:
    """The newest complete checkpoint of a run folder: the one named by ``last``, or the newest if ``last`` is missing.

    None if there is no checkpoint.

    Raises:
        UserError: ``last`` names a checkpoint that is missing or incomplete.
    """
    pointer = run / FOLDER / LAST
    if not pointer.is_file():  # deleted, or the process died between the two renames of the first checkpoint
        return max((file.parent for file in pointer.parent.glob(f"{PREFIX}*/{STATE}")), default=None)
    folder = pointer.parent / pointer.read_text(errors="replace").strip()
    if not (folder / STATE).is_file():
        raise UserError(
            f"{pointer} names {folder.name!r}, which is not there or not complete; delete {pointer} to resume from "
            f"the newest complete checkpoint"
        )
    return folder


def resolve_checkpoint(path: str | Path) -> Path:
    """The checkpoint folder for a run folder, its checkpoints folder, ``last`` or a checkpoint folder.

    Raises:
        UserError: the path is none of these.
    """
    path = Path(path)
    if path.name == LAST and path.is_file():
        path = path.parent.parent
    elif path.name == FOLDER and path.is_dir():
        path = path.parent
    if (path / MODEL).is_file():
        return path
    found = last_checkpoint(path)
    if found is None:
        what = "has no checkpoint in it" if path.exists() else "does not exist"
        raise UserError(f"{path} {what}; give a run folder, or one of its checkpoints/{PREFIX}… folders")
    return found


def delete_old_checkpoints(run: Path, keep: int) -> None:
    """Delete unfinished checkpoints and all but the newest ``keep`` (0: keep all); never the one named by ``last``."""
    folder = run / FOLDER
    for partial in folder.glob(f".partial-{PREFIX}*"):
        shutil.rmtree(partial, ignore_errors=True)
    newest = last_checkpoint(run)
    if keep and newest is not None:
        for old in [c for c in sorted(folder.glob(f"{PREFIX}*")) if c.name <= newest.name][:-keep]:
            shutil.rmtree(old, ignore_errors=True)

"""Checkpoints, written atomically.

    RUN/checkpoints/step-00001200/
        model.safetensors   parameters; the model's configuration as JSON in the header
        average.safetensors their moving average over the steps, where a run keeps one
        optimizer.pt        AdamW's state; or optimizer/ of a run whose state is divided among processes
        state.json          step, effective batch size, the losses not yet logged, the run's settings, checksums
        written_by.json     the run that wrote the folder, and may delete it
    RUN/checkpoints/last    a text file with the name of the newest

A checkpoint is written under a temporary name, synced to disk and renamed; then ``last`` is updated. So ``last`` names
a complete checkpoint even if the process dies while saving, or the power fails.
"""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fcmae.errors import UserError, advice
from fcmae.files import make_folder, naming, replacing, sync, write_text
from fcmae.runs import state as state_file
from fcmae.runs.find import (
    AVERAGE,
    DAMAGED,
    FOLDER,
    LAST,
    MODEL,
    NAME,
    OPTIMIZER,
    OPTIMIZER_SHARDS,
    PREFIX,
    STATE,
    instead_of,
    last_checkpoint,
    read_state,
    steps_of,
)
from fcmae.runs.find import resolve_checkpoint as resolve_checkpoint
from fcmae.runs.mark import DELETED, delete_marked, marked_run, new_run, write_mark
from fcmae.runs.state import TrainState
from fcmae.runs.utf8_path import utf8_path

PARTIAL = ".partial-"
UNFINISHED = re.compile(rf"({re.escape(PARTIAL)}|{re.escape(DELETED)})[0-9a-f]{{12}}-{NAME.pattern}")


def save_checkpoint(
    run: Path, model: nn.Module, config: dict[str, Any], optimizer: torch.optim.Optimizer, state: TrainState,
    average: nn.Module | None = None,
) -> Path:  # fmt: skip
    """Write the checkpoint of ``state.step`` and make it ``last``; returns its folder. It is on disk then.

    Raises:
        OSError: a file cannot be written. ``last`` is as it was.
    """
    with new_checkpoint(run, state.step) as partial:
        save_model(partial / MODEL, model, config)
        if average is not None:
            save_model(partial / AVERAGE, average, config)
        torch.save(optimizer.state_dict(), partial / OPTIMIZER)
        write_state(partial, state)
    return run / FOLDER / (run / FOLDER / LAST).read_text().strip()


def write_state(folder: Path, state: TrainState) -> None:
    """Write state.json of a checkpoint folder, with the checksums of the files that are there, also in folders."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    sums = {file.relative_to(folder).as_posix(): state_file.checksum(file) for file in files}
    state_file.write_state(folder / STATE, replace(state, checksums=sums))


@contextmanager
def new_checkpoint(run: Path, step: int) -> Iterator[Path]:
    """A folder to write a checkpoint's files to. After the block they are on disk, and the checkpoint is ``last``.

    Raises:
        OSError: a file cannot be written. ``last`` is as it was.
    """
    folder = run / FOLDER
    make_folder(folder)
    run_name = _run_name(run)
    target = folder / f"{PREFIX}{step:08d}"
    if target.exists() and marked_run(target) != run_name:
        target = folder / f"{target.name}-{run_name}"
    partial = folder / f"{PARTIAL}{run_name}-{target.name}"
    with synced_folder(partial):
        write_mark(partial, run_name, target.name)
        yield partial
    delete_marked(target, run_name)  # left by a process that died before updating `last`
    partial.rename(target)
    sync(folder)
    write_text(folder / LAST, target.name + "\n")


@contextmanager
def synced_folder(partial: Path) -> Iterator[None]:
    """An empty folder in place of what is there. After the block all files in it are on disk: it may be renamed.

    Raises:
        OSError: a file cannot be written. The folder is gone.
    """
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with naming(partial):
            partial.mkdir()
            yield
            _sync_all(partial)
    except (SafetensorError, RuntimeError, OSError) as error:  # RuntimeError: how torch reports a full disk
        shutil.rmtree(partial, ignore_errors=True)
        if advice(error) is not None or (isinstance(error, OSError) and error.filename is not None):
            raise
        raise OSError(f"{partial} cannot be written: {' '.join(str(error).split())}") from error


def _sync_all(folder: Path) -> None:
    for file in folder.rglob("*"):
        sync(file)
    sync(folder)


def adopt(partial: Path, run: Path, name: str) -> None:
    """Let a copied checkpoint folder, all of whose files are there, be ``name``, and ``last``."""
    target = run / FOLDER / name
    _sync_all(partial)
    if target.exists():  # it was only slow to appear
        shutil.rmtree(partial)
    else:
        partial.rename(target)
        sync(target.parent)
    write_text(run / FOLDER / LAST, name + "\n")


def save_model(file: Path, model: nn.Module, config: dict[str, Any]) -> None:
    """Write a network's tensors, with its configuration in the header; the old file or the new one is there."""
    save_tensors(file, {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}, config)


def save_tensors(file: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    """As :func:`save_model`, for a state dict."""
    with replacing(file) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt", "fcmae_model": json.dumps(config)})


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None = None,
    is_sharded: bool = False,
) -> TrainState:  # fmt: skip
    """Load a checkpoint's weights and optimizer state in place. The optimizer keeps its hyperparameters.

    Those of ``model`` may be divided among processes (``is_sharded``), or those of the checkpoint, or both.

    Raises:
        UserError: a file is missing, damaged, or belongs to another model.
    """
    state = read_state(folder)
    if (damaged := state_file.damaged_file(folder, state)) is not None:
        raise UserError(f"{damaged} cannot be read: it was {DAMAGED}{instead_of(folder)}")
    for file, network in ((MODEL, model), (AVERAGE, average)):
        if network is not None:
            tensors, _ = read_model(folder / file)
            try:
                network.load_state_dict(_divided(network, tensors) if is_sharded else tensors, strict=True)
            except RuntimeError as error:
                raise UserError(f"{folder / file} is of another model: {' '.join(str(error).split())}") from None
    now = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    try:
        file = OPTIMIZER_SHARDS if (folder / OPTIMIZER_SHARDS).is_dir() else OPTIMIZER
        optimizer.load_state_dict(_optimizer_state(folder, model, optimizer, is_sharded))
        _check_shapes(optimizer)
    except Exception as error:  # torch raises anything from OSError to UnpicklingError for a damaged file
        reason = " ".join(str(error).split())
        raise UserError(f"{folder / file} cannot be read: {reason}{instead_of(folder)}") from error
    for group, settings in zip(optimizer.param_groups, now, strict=True):
        for name in group.keys() - settings.keys() - {"params"}:
            del group[name]  # the schedule would take the saved run's initial_lr
        group.update(settings)
    return state


def _divided(network: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    from fcmae.runs.shards import divided_state  # here, because the import takes seconds

    return divided_state(network, tensors)


def _optimizer_state(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, is_sharded: bool
) -> dict[str, Any]:
    if (folder / OPTIMIZER_SHARDS).is_dir():
        from fcmae.runs.shards import load_optimizer

        return load_optimizer(folder, model, optimizer)
    saved = torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True)
    if not is_sharded:
        return saved
    from fcmae.runs.shards import divided_optimizer

    return divided_optimizer(saved, optimizer)


def _check_shapes(optimizer: torch.optim.Optimizer) -> None:
    """ValueError for a moment of another shape than its parameter; load_state_dict does not look."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for name, value in optimizer.state.get(parameter, {}).items():
                if name.startswith("exp_avg") and getattr(value, "shape", None) != parameter.shape:
                    raise ValueError(f"{name} does not fit a parameter of shape {list(parameter.shape)}")


def read_model(file: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Tensors of a .safetensors file, and the model's configuration if fcmae wrote the file."""
    try:
        with utf8_path(file) as path, safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # not a dict
        config = json.loads(metadata.get("fcmae_model", "null"))
    except Exception as error:  # safetensors' own error class, OSError, and more
        raise UserError(f"{file} cannot be read: {error}{instead_of(file.parent)}") from error
    if not isinstance(config, dict | None):
        raise UserError(f"{file} cannot be read: expected a configuration in its header, got {config!r}")
    return tensors, config


def delete_old_checkpoints(run: Path, keep: int) -> None:
    """Delete what this run wrote: unfinished checkpoints, and all but the newest ``keep`` (0: keep all).

    Never the one named by ``last``, nor folders without this run's mark: copies, and those of older versions.
    """
    folder, newest = run / FOLDER, last_checkpoint(run)
    run_name = _run_name(run)
    for left in folder.glob(".*"):
        if UNFINISHED.fullmatch(left.name):
            shutil.rmtree(left, ignore_errors=True)
        elif left.name.startswith(f"{PARTIAL}{PREFIX}"):  # of a version that put no run's name there
            with suppress(OSError):
                left.rmdir()  # if it is empty
    if keep and newest is not None:
        last = steps_of(newest)
        ours = [one for one in folder.glob(f"{PREFIX}*") if NAME.fullmatch(one.name) and marked_run(one) == run_name]
        for old in sorted((one for one in ours if steps_of(one) <= last), key=steps_of)[:-keep]:
            if old != newest:
                delete_marked(old, run_name)


def _run_name(run: Path) -> str:
    """The name in the marks of this run's checkpoints: that of the last one, or a new one."""
    last = last_checkpoint(run)
    return (None if last is None else marked_run(last)) or new_run()

"""Tensors that are divided among processes (DTensors of FSDP2), on disk.

A checkpoint of such a run has the folder ``optimizer``, of torch.distributed.checkpoint, in place of ``optimizer.pt``:
each process writes its share, and any number of processes can read it. The weights are gathered into
``model.safetensors``, as in any other checkpoint.
"""

from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor, distribute_tensor

from fcmae.errors import brief
from fcmae.runs.find import OPTIMIZER_SHARDS


def whole_state(module: nn.Module, wanted: bool) -> dict[str, Tensor]:
    """The state dict on the CPU with whole tensors, or an empty one. All processes of a divided module must call it."""
    whole: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        gathered = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor  # one at a time: memory
        if wanted:
            whole[name] = gathered.detach().cpu()
    return whole


def divided_like(model: Tensor | None, whole: Any) -> Any:
    """This process's share of a tensor, divided as ``model`` is; as it is, if that is not divided."""
    if not isinstance(model, DTensor) or not isinstance(whole, Tensor) or whole.shape != model.shape:
        return whole
    return distribute_tensor(whole.to(model.device), model.device_mesh, model.placements, src_data_rank=None)


def divided_state(module: nn.Module, whole: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict for ``module``, whose tensors may be divided."""
    own = module.state_dict()
    return {name: divided_like(own.get(name), tensor) for name, tensor in whole.items()}


def save_optimizer(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write this process's share of the state to ``folder``/optimizer. All processes must call it; it is on disk then.

    Raises:
        OSError: a process could not write its share; in all of them.
    """
    state = {
        f"{name}.{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    try:
        dcp.save(state, storage_writer=dcp.FileSystemWriter(folder / OPTIMIZER_SHARDS, sync_files=True))
    except CheckpointException as error:
        raise _first_of(error) from error


def load_optimizer(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What :func:`save_optimizer` wrote, as ``optimizer.load_state_dict`` takes it, divided as the parameters are.

    If they are, all processes must call it.

    Raises:
        OSError: it cannot be read, or is of other parameters.
    """
    reader = dcp.FileSystemReader(folder / OPTIMIZER_SHARDS)
    there = reader.read_metadata().state_dict_metadata
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    saved, flat = dict[int, dict[str, Any]](), dict[str, Any]()
    for place, parameter in enumerate(parameters_of(optimizer)):
        saved[place] = {}
        for key in ("step", "exp_avg", "exp_avg_sq"):
            if (name := f"{names[parameter]}.{key}") in there:
                saved[place][key] = flat[name] = (
                    torch.zeros(()) if key == "step" else torch.zeros_like(parameter, requires_grad=False)
                )
    together = any(isinstance(parameter, DTensor) for parameter in names)
    try:
        dcp.load(flat, storage_reader=reader, no_dist=not together)
    except CheckpointException as error:
        raise _first_of(error) from error
    return {"state": saved, "param_groups": optimizer.state_dict()["param_groups"]}


def divided_optimizer(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The whole state dict of an optimizer, divided as its parameters are."""
    parameters = parameters_of(optimizer)
    state = {
        place: {key: divided_like(parameters[place], value) for key, value in values.items()}
        for place, values in saved["state"].items()
    }
    return {**saved, "state": state}


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """In the order in which its state dict counts them."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _first_of(error: CheckpointException) -> OSError:
    """Why a process failed: torch's error is no Exception, and names all of them."""
    rank, (cause, _) = next(iter(sorted(error.failures.items())))
    if isinstance(cause, OSError) and cause.filename is not None:
        return cause
    return OSError(f"process {rank}: {brief(cause)}")

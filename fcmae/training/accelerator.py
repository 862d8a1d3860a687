"""The device, the processes and the precision of a run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import AutocastKwargs
from torch import nn

from fcmae.cli.devices import choose_device
from fcmae.config.run import RunConfig
from fcmae.errors import UserError
from fcmae.training.meeting import meet
from fcmae.training.run import TrainSettings

DEVICE_VARIABLE = "ACCELERATE_TORCH_DEVICE"


def make_accelerator(config: RunConfig) -> Accelerator:
    """The accelerator for ``config.device`` and ``config.train.precision``, joined with the other processes, if any.

    Raises:
        UserError: a device that is not there, one device for several processes, or another process did not come.
    """
    device = choose_device(config.device)
    if config.device == "auto":
        return _accelerator(config, device)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        if device.index is not None:
            raise UserError(
                f"--device {config.device} is one device for {processes} processes; give --device {device.type}, and "
                f"choose the devices with CUDA_VISIBLE_DEVICES"
            )
        return _accelerator(config, device)
    if device.index is not None:
        torch.accelerator.set_device_index(device.index)  # kernels of ours run on the current device
    with _variable(DEVICE_VARIABLE, str(device)):
        return _accelerator(config, device)


def _accelerator(config: RunConfig, device: torch.device) -> Accelerator:
    # every weight is cast once a step, so a cache of casts saves nothing, and CUDA graphs cannot have one
    casts = AutocastKwargs(cache_enabled=False)
    if (backend := {"cpu": "gloo", "cuda": "nccl"}.get(device.type)) is not None:
        meet(backend)
    # accelerate finds torchrun's CPU processes only with cpu=True
    return Accelerator(cpu=device.type == "cpu", mixed_precision=_precision(config, device), kwargs_handlers=[casts])


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    """An environment variable that is set for a moment: accelerate reads it when its state is made."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _precision(config: RunConfig, device: torch.device) -> str:
    wanted = config.train.precision
    if wanted == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        wanted = "bf16" if has_bf16 else "fp32"
    return {"fp32": "no", "bf16": "bf16"}[wanted]


def captures(train: TrainSettings, accelerator: Accelerator) -> bool:
    """Whether the training step is to be captured as CUDA graphs."""
    return train.cuda_graphs and accelerator.device.type == "cuda"


def prepare(
    accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer, exchanges: bool
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Model and optimizer on the device, in its precision.

    With several processes the model is wrapped to exchange gradients, unless something ``exchanges`` them already: a
    captured step, or FSDP2.
    """
    if exchanges:
        return accelerator.prepare_model(model, evaluation_mode=True), accelerator.prepare_optimizer(optimizer)
    return accelerator.prepare(model, optimizer)


def precision_name(accelerator: Accelerator) -> str:
    """``fp32`` or ``bf16``."""
    return "bf16" if accelerator.mixed_precision == "bf16" else "fp32"


def device_name(accelerator: Accelerator) -> str:
    """Name of the device, after the number of processes if there are several."""
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return name if accelerator.num_processes == 1 else f"{accelerator.num_processes} × {name}"


def hardware_name(accelerator: Accelerator) -> str:
    """As :func:`device_name`; of a CPU its model, where the system tells it, and the threads."""
    name = device_name(accelerator)
    if accelerator.device.type != "cpu":
        return name
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")
    threads = torch.get_num_threads()
    return f"{name.removesuffix('cpu')}{model}, {threads} thread{'' if threads == 1 else 's'}"

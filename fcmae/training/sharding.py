"""FSDP2: each process holds a share of the weights, of the gradients and of the optimizer's state.

A block's weights are gathered when it computes, and given up afterwards. The numbers are those of DDP: gradients are
averaged over the processes, and autocast casts the float32 weights.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate import Accelerator
from torch import nn

from fcmae.config import PretrainConfig
from fcmae.models.block import Block
from fcmae.models.layers import use_backend

logger = logging.getLogger(__name__)

# torch warns of outputs that are views, which must not be changed in place; nothing here does
warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")


def is_sharded(config: PretrainConfig, accelerator: Accelerator) -> bool:
    """Whether the network is to be divided; one process has nothing to divide. A line says what is left out then."""
    train = config.train
    if train.parallel != "fsdp":
        return False
    if accelerator.num_processes == 1:
        logger.info("--train.parallel fsdp divides nothing: there is one process")
        return False
    on_gpu = accelerator.device.type == "cuda"
    left_out = ["--train.compile"] * train.compile + ["--train.cuda_graphs"] * (train.cuda_graphs and on_gpu)
    if left_out:
        logger.info("--train.parallel fsdp runs without %s", " and ".join(left_out))
    return True


def shard(model: nn.Module, accelerator: Accelerator) -> None:
    """Divide a network among all processes, in place, block by block; its optimizer is made afterwards.

    All of them must call it, with the same weights.
    """
    from torch.distributed.device_mesh import init_device_mesh  # here, because the imports take seconds
    from torch.distributed.fsdp import fully_shard

    model.to(accelerator.device)
    modules: list[Any] = list(model.modules())
    parts = [part for part in modules if hasattr(part, "backend_name") and part.ops.name == "numba"]
    for part in parts:  # NumPy's views of weights keep their memory from being freed
        use_backend(part, "torch")
        part.backend_name = "torch"
    if parts:
        logger.info("--train.parallel fsdp runs with the backend torch in place of numba")
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for block in [one for one in model.modules() if isinstance(one, Block)]:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


@contextmanager
def no_exchange(model: Any) -> Iterator[None]:
    """While open, backward passes add to whole gradients in each process, which the next one outside exchanges."""
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)

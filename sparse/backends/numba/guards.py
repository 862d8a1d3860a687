"""When the CPU kernels can run; PyTorch's implementation serves otherwise."""

import os

import torch
from torch import Tensor, nn

PROCESS = os.getpid()  # Numba's threads do not survive a fork
DTYPES = (torch.float32, torch.float64)


def can_run(*tensors: Tensor | None, autocasts: bool = True) -> bool:
    """Whether the kernels take these tensors here and now.

    They take plain CPU tensors of one dtype, float32 or float64, outside torch.compile (which fuses by itself), in the
    process that imported them.

    Args:
        tensors: the operation's; None counts as absent.
        autocasts: whether the operation is one that autocast computes in its own dtype, which the kernels do not.
    """
    if torch.compiler.is_compiling() or os.getpid() != PROCESS or (autocasts and torch.is_autocast_enabled("cpu")):
        return False
    given = [x for x in tensors if x is not None]
    dtype = given[0].dtype
    return dtype in DTYPES and all(
        x.dtype == dtype and x.device.type == "cpu" and type(x) in (Tensor, nn.Parameter) for x in given
    )

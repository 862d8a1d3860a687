"""Whether the compiled loops can be used: Numba is an optional dependency (``pip install 'fcmae[numba]'``)."""

import importlib.util
import logging
import os
from functools import cache
from types import ModuleType

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

SWITCH = "FCMAE_NUMBA"  # 0: PyTorch alone
DTYPES = (torch.float32, torch.float64)


def loops_for(*tensors: Tensor, dtypes: tuple[torch.dtype, ...] = DTYPES) -> ModuleType | None:
    """:mod:`fcmae.sparse.loops`, if it can take these tensors here and now; torch.compile fuses by itself.

    They must be of one dtype, one of ``dtypes``: for most loops a float, for indices int64.
    """
    if torch.compiler.is_compiling() or tensors[0].dtype not in dtypes:
        return None
    dtype = tensors[0].dtype
    fit = all(x.device.type == "cpu" and x.dtype == dtype and type(x) in (Tensor, nn.Parameter) for x in tensors)
    return _loops(os.getpid()) if fit else None


@cache
def _loops(process: int) -> ModuleType | None:
    """In a process that was forked from one with loops: none, for Numba's threads do not survive a fork."""
    if os.environ.get(SWITCH, "1") == "0" or importlib.util.find_spec("numba") is None:
        return None
    try:
        loops = importlib.import_module("fcmae.sparse.loops")
        if process != loops.PROCESS or loops.INTERPRETED:
            return None
        loops.launch_threads()
    # too old for this Python or NumPy, no place for what it compiles, a threading layer that is not there
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        logger.warning("Numba cannot be used, PyTorch alone is slower here: %s", " ".join(str(error).split()))
        return None
    return loops

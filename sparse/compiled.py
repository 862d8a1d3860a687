"""Whether the compiled loops can be used: Numba is an optional dependency (``pip install 'fcmae[numba]'``)."""

import importlib
import os
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

SWITCH = "FCMAE_NUMBA"  # 0: PyTorch alone
DTYPES = (torch.float32, torch.float64)


def loops_for(x: Tensor) -> ModuleType | None:
    """:mod:`fcmae.sparse.loops`, if it can take this tensor here and now; torch.compile fuses by itself."""
    return _loops() if x.device.type == "cpu" and x.dtype in DTYPES and not torch.compiler.is_compiling() else None


@cache
def _loops() -> ModuleType | None:
    if os.environ.get(SWITCH, "1") == "0":
        return None
    try:
        return importlib.import_module("fcmae.sparse.loops")
    # it is optional, or does not fit this Python or NumPy; RuntimeError: there is no place for what it compiles
    except (ImportError, RuntimeError):
        return None

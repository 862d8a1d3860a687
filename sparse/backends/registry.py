"""Backends by name. One is chosen when a network meets its device; what it does not define, PyTorch's serves.

    torch       PyTorch, any device, the plain implementation
    numba       CPU kernels, compiled when they first run
    triton      block-sparse GPU kernels over the visible patches
    minkowski   MinkowskiEngine, depthwise and strided convolutions; installed separately (``make minkowski``)
    auto        the fastest on the device: numba on a CPU, triton on CUDA, else torch

To add one, write a module of its name here with functions named as the fields of :class:`Backend`, and add the name to
``SparseBackendName`` (names.py). CONTRIBUTING.md has the steps.
"""

import importlib
import logging
from functools import cache
from typing import get_args

import torch

from fcmae.sparse.backends import pytorch
from fcmae.sparse.backends.names import SparseBackendName
from fcmae.sparse.backends.operations import OPERATIONS, Backend

logger = logging.getLogger(__name__)

FASTEST = {"cpu": "numba", "cuda": "triton"}
"""By type of device."""
INSTALL = {
    "numba": "pip install numba",
    "triton": "pip install triton (it comes with torch's CUDA build)",
    "minkowski": "make minkowski, or see docs/backends.md",
}


class BackendError(ValueError):
    """A backend that is not known, not installed, or not for the device."""


def resolve_backend(name: str, device: torch.device | str = "cpu") -> Backend:
    """The backend of this name, for a network on this device.

    A network is built on the CPU, whatever it is for: a backend that needs a GPU is not refused there. Its operations
    say what they need.

    Raises:
        BackendError: no such backend, what it needs is not installed (the message says how to install it), or it does
            not run on the device.
    """
    device = torch.device(device)
    if name not in get_args(SparseBackendName):
        raise BackendError(f"backend must be one of {', '.join(get_args(SparseBackendName))}, got {name!r}")
    if name == "auto":
        return _fastest(device)
    backend = _load(name)
    if device.type not in ("cpu", "meta") and (missing := backend.missing_on(device)):
        raise BackendError(f"backend {name!r} needs {missing}, but the network is on {device}; take auto or torch")
    return backend


def _fastest(device: torch.device) -> Backend:
    name = FASTEST.get(device.type)
    if name is not None and not (device.type == "cuda" and torch.version.hip):  # AMD's: not tried
        try:
            backend = _load(name)
        except BackendError as error:
            _warn_once(f"{error}; PyTorch alone serves, and is slower")
        else:
            missing = backend.missing_on(device)
            if missing is None:
                return backend
            _warn_once(f"backend {name!r} needs {missing}; PyTorch alone serves, and is slower")
    return _load("torch")


def _load(name: str) -> Backend:
    try:
        module = pytorch if name == "torch" else importlib.import_module(f"{__package__}.{name}")
    # a build that does not fit its libraries, a thread pool that is not there: more than ImportError
    except (ImportError, OSError, RuntimeError, AttributeError, ValueError) as error:
        hint = f"; {INSTALL[name]}" if name in INSTALL else ""
        what = getattr(error, "name", None) or " ".join(str(error).split())
        raise BackendError(f"backend {name!r} needs {what}, which cannot be imported{hint}") from error
    return Backend(name, *(getattr(module, operation, getattr(pytorch, operation)) for operation in OPERATIONS))


@cache
def _warn_once(message: str) -> None:
    logger.warning(message)

"""Who computes the convolutions. A backend is chosen once, when a network is built; each equals the oracle.

    grid        PyTorch, any device: scatter to the grid, convolve, gather; on CPUs by compiled loops; the default
    triton      block-sparse GPU kernels over the visible patches
    minkowski   MinkowskiEngine, depthwise and strided; installed apart (``make minkowski``)
    masked      the whole network as masked dense convolution, channels-last: the baseline

What a backend needs is imported when it is chosen, not before.
"""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from fcmae.sparse import depthwise, ops
from fcmae.sparse.sites import ActiveSites

BackendName = Literal["auto", "grid", "triton", "minkowski", "masked"]
INSTALL = {
    "triton": "pip install triton (it comes with torch's CUDA build)",
    "minkowski": "make minkowski, or see docs/backends.md",
}

DepthwiseConv = Callable[[Tensor, Tensor, Tensor | None, ActiveSites, int], Tensor]
Downsample = Callable[[Tensor, Tensor, Tensor | None, ActiveSites, int], Tensor]


class BackendError(ValueError):
    """A backend that is not known, or that is not installed."""


def _nothing(_device: torch.device) -> None:
    """Backends of plain PyTorch run everywhere. (A lambda could not be pickled, nor then could a network.)"""


class Backend(NamedTuple):
    """The operations that look at neighbors, or may."""

    name: str
    depthwise_conv: DepthwiseConv
    """(x, weight, bias, sites, side) → x's shape; see :func:`fcmae.sparse.depthwise_conv`."""
    downsample: Downsample
    """(x, weight, bias, sites, side) → [rows / 4, C_out], ``side`` being that of ``x``."""
    missing_on: Callable[[torch.device], str | None] = _nothing
    """What this backend lacks to run on a device, in words; None: nothing."""


def _downsample(x: Tensor, weight: Tensor, bias: Tensor | None, _sites: ActiveSites, _side: int) -> Tensor:
    return ops.downsample(x, weight, bias)


GRID = Backend("grid", depthwise.depthwise_conv, _downsample)


def resolve_backend(name: str) -> Backend:
    """The backend of this name; auto is grid, on every device.

    Raises:
        BackendError: no such backend, or what it needs is not installed; the message holds the command that does.
    """
    if name not in get_args(BackendName):
        raise BackendError(f"backend must be one of {', '.join(get_args(BackendName))}, got {name!r}")
    if name == "triton":
        module = _import(name, "fcmae.sparse.triton_depthwise")
        return Backend(name, module.depthwise_conv, _downsample, module.missing_on)
    if name == "minkowski":
        module = _import(name, "fcmae.sparse.minkowski")
        return Backend(name, module.depthwise_conv, module.downsample, module.missing_on)
    return GRID._replace(name="masked") if name == "masked" else GRID


def _import(name: str, module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    # a build that does not fit its libraries raises other things than ImportError
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        what = getattr(error, "name", None) or " ".join(str(error).split())
        raise BackendError(f"backend {name!r} needs {what}, which cannot be imported; {INSTALL[name]}") from error

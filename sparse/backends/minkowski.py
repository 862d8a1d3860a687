"""The convolutions through MinkowskiEngine 0.5.4, a second engine to compare with.

Both the depthwise and the strided convolution are MinkowskiEngine's own modules, on its own coordinate maps and kernel
maps; they carry a dense convolution's weights, and rows stay in the order of :mod:`fcmae.sparse.sites`, so that
LayerNorm, Linear layers and GRN are shared with the other backends.

Nothing here is imported unless this backend is asked for. MinkowskiEngine 0.5.4 is older than Python 3.10, and imports
only where ``collections.Sequence`` exists.
"""

import collections
import collections.abc
import importlib
import warnings
from functools import cache
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.func import functional_call

from fcmae.sparse.backends.operations import check_depthwise
from fcmae.sparse.sites import ActiveSites

LARGEST_SIDE = 8

for _name in ("Sequence", "Mapping", "Iterable"):
    if not hasattr(collections, _name):
        setattr(collections, _name, getattr(collections.abc, _name))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that it was built for the CPU alone
    engine = importlib.import_module("MinkowskiEngine")


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None, sites: ActiveSites, side: int) -> Tensor:
    """See :func:`fcmae.sparse.backends.pytorch.depthwise_conv`; float32 or float64, without autocast."""
    check_depthwise(x, weight, bias, sites, side)
    channels, _, kernel, _ = weight.shape
    module = _channelwise(channels, kernel, bias is not None, x.device)
    parameters = {"kernel": rearrange(weight, "c 1 y x -> (x y) c")}  # its offsets run along the first axis fastest
    return _apply(module, parameters, x, bias, sites, side)


def downsample(x: Tensor, weight: Tensor, bias: Tensor | None, sites: ActiveSites, side: int) -> Tensor:
    """See :func:`fcmae.sparse.backends.pytorch.downsample`; from ``side`` to ``side / 2`` sites along a patch."""
    module = _strided(weight.shape[1], weight.shape[0], bias is not None, x.device)
    parameters = {"kernel": rearrange(weight, "o i y x -> (x y) i o")}
    return _apply(module, parameters, x, bias, sites, side, coordinates=_coordinate_map(sites, side // 2))


def missing_on(device: torch.device) -> str | None:
    """A build for CPUs cannot reach a GPU."""
    if device.type == "cpu" or (device.type == "cuda" and engine.is_cuda_available()):
        return None
    return f"MinkowskiEngine built for {device.type}"


def _apply(
    module: Any, parameters: dict[str, Tensor], x: Tensor, bias: Tensor | None, sites: ActiveSites, side: int,
    **options: Any,
) -> Tensor:  # fmt: skip
    if bias is not None:
        parameters["bias"] = bias[None]
    tensor = engine.SparseTensor(
        x.contiguous(), coordinate_map_key=_coordinate_map(sites, side), coordinate_manager=_manager(sites),
        device=x.device,
    )  # fmt: skip
    with torch.autocast(x.device.type, enabled=False):
        return functional_call(module, parameters, (tensor,), options).F


# These modules give the shape only; each call passes its own weights
@cache
def _channelwise(channels: int, kernel: int, bias: bool, device: torch.device) -> Any:
    module = engine.MinkowskiChannelwiseConvolution(channels, kernel_size=kernel, bias=bias, dimension=2)
    return module.to(device).requires_grad_(False)


@cache
def _strided(in_channels: int, out_channels: int, bias: bool, device: torch.device) -> Any:
    module = engine.MinkowskiConvolution(in_channels, out_channels, kernel_size=2, stride=2, bias=bias, dimension=2)
    return module.to(device).requires_grad_(False)


def _manager(sites: ActiveSites) -> Any:
    return sites.keep("minkowski manager", lambda: engine.CoordinateManager(D=2))


def _coordinate_map(sites: ActiveSites, side: int) -> Any:
    """Key of the coordinate map of a stage, rows in our order; made once per batch and stage."""
    return sites.keep(("minkowski coordinates", side), lambda: _make_coordinate_map(sites, side))


def _make_coordinate_map(sites: ActiveSites, side: int) -> Any:
    if side > LARGEST_SIDE:
        raise ValueError(f"the minkowski backend takes up to {LARGEST_SIDE} sites along a patch, got {side}")
    stride = LARGEST_SIDE // side
    image, y, x = sites.coordinates(side)
    coordinates = torch.stack([image, y * stride, x * stride], dim=1).int().contiguous()
    key, (unique, _) = _manager(sites).insert_and_map(coordinates, [stride, stride])
    if not torch.equal(unique.cpu().long(), torch.arange(len(coordinates))):
        raise RuntimeError("MinkowskiEngine reordered the coordinates of a batch")
    return key

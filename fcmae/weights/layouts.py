"""The same numbers in other shapes: MinkowskiEngine's kernels, axes of length 1 before or after."""

import math

import torch
from einops import rearrange
from torch import Tensor

# How the official training code wraps layers that act on sparse tensors
WRAPPED = ((".ln.", "."), (".linear.", "."))


def from_minkowski(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """A parameter of a MinkowskiEngine layer under the dense layer's name and with its axes.

    MinkowskiEngine numbers a kernel's offsets along the first spatial axis fastest: a depthwise kernel is
    [k·k, C], another [k·k, C_in, C_out], of one offset [C_in, C_out]; a bias is [1, C].
    """
    for wrapped, plain in WRAPPED:
        name = name.replace(wrapped, plain)
    if not name.endswith(".kernel"):
        return name, tensor
    is_depthwise = name.endswith("dwconv.kernel") or name == "downsample_layers.0.3.kernel"
    if is_depthwise and tensor.ndim == 2:
        side = math.isqrt(len(tensor))
        if side * side == len(tensor):
            tensor = rearrange(tensor, "(x y) c -> c 1 y x", x=side)
    elif not is_depthwise and tensor.ndim == 3:
        side = math.isqrt(len(tensor))
        if side * side == len(tensor):
            tensor = rearrange(tensor, "(x y) i o -> o i y x", x=side)
    elif not is_depthwise and tensor.ndim == 2:
        tensor = rearrange(tensor, "i o -> o i 1 1")
    return name.removesuffix("kernel") + "weight", tensor.contiguous()


def in_shape(tensor: Tensor, shape: torch.Size) -> Tensor:
    """The tensor in this shape if they differ in axes of length 1 before and after alone; else as it is."""
    given, wanted = list(tensor.shape), list(shape)
    longer, shorter = (given, wanted) if len(given) > len(wanted) else (wanted, given)
    more = len(longer) - len(shorter)
    fits = any([1] * before + shorter + [1] * (more - before) == longer for before in range(more + 1))
    return tensor.reshape(shape) if fits else tensor

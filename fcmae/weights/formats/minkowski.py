"""Training checkpoints in MinkowskiEngine's layout: another format's names, with wrapped layers and sparse kernels."""

import math
from collections.abc import Sequence
from dataclasses import replace

from einops import rearrange
from torch import Tensor

from fcmae.weights.formats.base import Format, Named, Networks, sibling
from fcmae.weights.formats.mmearth import MMEARTH
from fcmae.weights.formats.official import OFFICIAL

# How the training code wraps layers that act on a sparse tensor's features
LAYER_NORM, LINEAR = ".ln.", ".linear."
DEPTHWISE = (".conv_dw.weight", "stem.3.weight")


def in_minkowski_layout(dense: Format) -> Format:
    """The training checkpoints of a code whose dense networks have the format ``dense``."""

    def matches(names: Sequence[str]) -> Networks:
        """The dense format's blocks with a kernel somewhere."""
        kernels = [name for name in names if name.endswith(".kernel")]
        return {
            prefix: telling
            for prefix, telling in dense.matches(names).items()
            if any(name.startswith(prefix) for name in kernels)
        }

    def to_timm(name: str, tensor: Tensor) -> Named | None:
        plain = name.replace(LAYER_NORM, ".").replace(LINEAR, ".")
        if not plain.endswith(".kernel"):
            return dense.to_timm(plain, tensor)
        named = dense.to_timm(plain.removesuffix("kernel") + "weight", tensor)
        return named and (named[0], _dense_kernel(tensor, is_depthwise=named[0].endswith(DEPTHWISE)))

    return replace(
        dense,
        name=f"{dense.name} training checkpoint, MinkowskiEngine's layout",
        matches=matches,
        to_timm=to_timm,
        sibling=_sibling,
        published=False,
        target=None,
    )


def _dense_kernel(kernel: Tensor, is_depthwise: bool) -> Tensor:
    """A sparse kernel as a dense convolution's weight; one that has another shape stays as it is.

    MinkowskiEngine numbers a kernel's offsets along the first spatial axis fastest: a depthwise kernel is [k·k, C],
    another [k·k, C_in, C_out], one with a single offset [C_in, C_out].
    """
    if kernel.ndim == 2 and not is_depthwise:
        return rearrange(kernel, "i o -> o i 1 1").contiguous()
    if kernel.ndim != (2 if is_depthwise else 3) or math.isqrt(len(kernel)) ** 2 != len(kernel):
        return kernel
    axes = "(x y) c -> c 1 y x" if is_depthwise else "(x y) i o -> o i y x"
    return rearrange(kernel, axes, x=math.isqrt(len(kernel))).contiguous()


def _sibling(name: str, tensor: Tensor) -> str:
    """A sparse convolution has a kernel, and a bias of [1, C]."""
    layer, _, kind = name.rpartition(".")
    if kind == "kernel":
        return f"{layer}.bias"
    return f"{layer}.kernel" if kind == "bias" and tensor.ndim == 2 else sibling(name, tensor)


OFFICIAL_TRAINING = in_minkowski_layout(OFFICIAL)
MMEARTH_TRAINING = in_minkowski_layout(MMEARTH)

"""Layer decay: the deeper a layer, the higher its learning rate. Parameter groups by timm, layers by the papers."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from fcmae.finetuning.config import DecayBy


def layer_of(name: str, depths: Sequence[int], by: DecayBy) -> int:
    """The layer of a parameter of timm's ConvNeXt, as the official code of ConvNeXt V2 counts.

    Args:
        name: such as ``stages.2.blocks.4.conv_dw.weight``.
        depths: blocks of each stage.
        by: ``layer``: blocks count from 1, the stem and the downsampling before a block belong to it. ``three``: the
            stem is 0, each stage is a layer, but the last but one (the only one of an isotropic network) has one for
            every three blocks.

    Returns:
        The number; that of the head is the largest.
    """
    long = max(0, len(depths) - 2)
    layers = list(depths) if by == "layer" else [-(-d // 3) if s == long else 1 for s, d in enumerate(depths)]
    part, _, rest = name.partition(".")
    if part == "stem":
        return 1 if by == "layer" else 0
    if part != "stages":
        return sum(layers) + 1
    numbers = rest.split(".")
    stage = int(numbers[0])
    block = int(numbers[2]) if numbers[1] == "blocks" else 0
    inside = block if by == "layer" else block // 3 if stage == long else 0
    return sum(layers[:stage]) + inside + 1


def param_groups(
    model: nn.Module, depths: Sequence[int] | None, weight_decay: float, layer_decay: float, by: DecayBy
) -> list[dict[str, Any]]:
    """Groups for an optimizer, each with its ``lr_scale``, which timm's schedulers multiply the learning rate by.

    Vectors (biases, norms, GRN, LayerScale) have no weight decay; parameters that need no gradient are left out.

    Args:
        model: a network of timm.
        depths: its blocks of each stage, if it is a ConvNeXt; None: another network, whose layers are timm's.
        weight_decay: of kernels.
        layer_decay: factor from a layer to the one before it; 1: one learning rate for all.
        by: what a layer is, see :func:`layer_of`.
    """
    if layer_decay == 1:
        return param_groups_weight_decay(model, weight_decay)
    matched: Any = model
    if depths is not None:
        layer: Callable[[str], int] = lambda name: layer_of(name, depths, by)  # noqa: E731
        matched = SimpleNamespace(named_parameters=model.named_parameters, group_matcher=lambda coarse: layer)
    return param_groups_layer_decay(matched, weight_decay=weight_decay, layer_decay=layer_decay)

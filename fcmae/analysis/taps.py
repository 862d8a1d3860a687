"""Taps: the blocks of a network, and hooks that read a tensor inside each of them.

Blocks are found by timm's names: ``stages`` (ConvNeXt), ``layers`` (Swin), ``blocks`` (ViT), ``layer1`` … (ResNet).
The tensors inside are those of the block's MLP, ``fc1 → act → (grn) → fc2``. The sparse encoder's blocks pass theirs
to observers.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from fcmae.analysis.distance import as_positions
from fcmae.analysis.tap_names import TAPS as TAPS
from fcmae.analysis.tap_names import Tap as Tap
from fcmae.errors import UserError
from fcmae.models import FCMAE
from fcmae.models.block import Block
from fcmae.models.layers import Mlp

GROUPS = re.compile(r"stages|layers|blocks|layer\d+")


class FoundBlock(NamedTuple):
    """One block of a network."""

    name: str
    """Name of the module, such as ``stages.2.blocks.4``."""
    stage: int
    """From 0; always 0 in networks without stages."""
    module: nn.Module


class Features(NamedTuple):
    """Features of one batch at one block."""

    x: Tensor
    """[B, M, C]; do not keep a reference to it."""
    grid_hw: tuple[int, int] | None
    """(h, w) if the positions form a grid, M = h·w in raster order; otherwise None."""


def find_blocks(model: nn.Module) -> list[FoundBlock]:
    """The blocks of a network in execution order.

    Raises:
        UserError: no blocks are found.
    """
    if isinstance(model, FCMAE):
        model = model.encoder
    groups: list[tuple[str, nn.Module]] = []
    for name, root in model.named_children():
        if GROUPS.fullmatch(name):
            children = [(f"{name}.{part}", child) for part, child in root.named_children()]
            staged = any(_is_group(child) for _, child in children)
            groups += children if staged else [(name, root)]
    found = [FoundBlock(path, stage, block) for stage, group in enumerate(groups) for path, block in _blocks_of(*group)]
    if not found:
        names = ", ".join(name for name, _ in model.named_children()) or "none"
        raise UserError(
            f"{type(model).__name__} has no known blocks: looked for stages, layers, blocks or layer1 …; its "
            f"children are: {names}"
        )
    return found


def _is_group(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential | nn.ModuleList) or hasattr(module, "blocks")


def _blocks_of(name: str, module: Any) -> Iterator[tuple[str, nn.Module]]:
    if hasattr(module, "blocks"):
        yield from _blocks_of(f"{name}.blocks", module.blocks)
    elif isinstance(module, nn.Sequential | nn.ModuleList):
        for part, child in module.named_children():
            yield from _blocks_of(f"{name}.{part}", child)
    else:
        yield name, module


def tap_of(block: nn.Module, tap: Tap) -> Tap:
    """The tensor actually read for ``tap``: ``block`` in blocks without an MLP, ``act`` for ``grn`` without GRN."""
    mlp = getattr(block, "mlp", None)
    if tap == "block" or not hasattr(mlp, "fc1") or not (isinstance(mlp, Mlp) or hasattr(mlp, "act")):
        return "block"
    return "act" if tap == "grn" and getattr(mlp, "grn", None) is None else tap


@contextmanager
def watched(
    model: nn.Module, blocks: list[FoundBlock], tap: Tap, see: Callable[[FoundBlock, Features], None]
) -> Iterator[None]:
    """While open, each forward pass of the model calls ``see`` with the features of each block."""
    with ExitStack() as stack:
        prefix = _Prefix(model, stack)
        for found in blocks:
            name = tap_of(found.module, tap)
            if isinstance(found.module, Block):
                handle = _sparse_hook(found, name, see)
            else:
                handle = _dense_hook(model, found, name, see, prefix)
            stack.callback(handle.remove)
        yield


class _Prefix:
    """Counts a block's class and register tokens, which are not positions of the image.

    Networks add them at different places: a ViT before its blocks, XCiT and CaiT after, ConViT in between. So their
    number is inferred by comparing the tokens in the block with the patches from the patch embedding.
    """

    def __init__(self, model: nn.Module, hooks: ExitStack) -> None:
        class_token = any(name.startswith("cls_token") for name, _ in model.named_parameters(recurse=False))  # CrossViT
        self.given: int = getattr(model, "num_prefix_tokens", int(class_token))
        self.patches: dict[nn.Module, int] = {}
        embed = getattr(model, "patch_embed", None)
        embeds = embed if isinstance(embed, nn.ModuleList) else [embed]
        for each in embeds:
            if isinstance(each, nn.Module):
                hooks.callback(each.register_forward_hook(self._count).remove)

    def _count(self, embed: nn.Module, _args: object, output: Any) -> None:
        x = output[0] if isinstance(output, tuple) else output
        channels = x.shape[1 if x.ndim == 4 and getattr(embed, "output_fmt", "NCHW") == "NCHW" else -1]
        self.patches[embed] = x[0].numel() // channels

    def of(self, tokens: int) -> int:
        """Prefix tokens among a block's ``tokens``; without a patch embedding, the number the network declares."""
        positions = tokens - self.given
        shares = (1, 4, 16, 64)  # MViT pools its patches by 2×2 between stages
        known = any(positions * share == patches for patches in self.patches.values() for share in shares)
        return self.given if known or not self.patches else 0


def _dense_hook(
    model: nn.Module, found: FoundBlock, tap: Tap, see: Callable[[FoundBlock, Features], None], prefix: _Prefix
) -> Any:
    """Hook the layer that outputs the tensor, so nothing is computed twice."""
    block: Any = found.module
    layer = {"expansion": "fc1", "act": "act", "grn": "grn"}.get(tap)
    if layer is None:
        channels_first = getattr(model, "output_fmt", "NCHW") == "NCHW"
    else:
        channels_first = isinstance(block.mlp.fc1, nn.Conv2d)

    def hook(_module: nn.Module, _args: object, output: Any) -> None:
        x = output[0] if isinstance(output, tuple) else output
        if x.ndim == 4:
            axes = slice(2, 4) if channels_first else slice(1, 3)
            see(found, Features(as_positions(x, "first" if channels_first else "last"), tuple(x.shape[axes])))
        else:
            see(found, Features(as_positions(x)[:, prefix.of(x.shape[1]) :], None))

    return (block if layer is None else getattr(block.mlp, layer)).register_forward_hook(hook)


def _sparse_hook(found: FoundBlock, tap: Tap, see: Callable[[FoundBlock, Features], None]) -> Any:
    if tap == "block":

        def of_block(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            see(found, Features(as_positions(output, batch_size=args[1].batch_size), None))

        return found.module.register_forward_hook(of_block)

    def of_mlp(name: str, hidden: Tensor, batch_size: int) -> None:
        if name == tap:
            see(found, Features(as_positions(hidden, batch_size=batch_size), None))

    return cast(Block, found.module).observe(of_mlp)

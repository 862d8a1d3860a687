"""Feature maps of single channels of a block, for one image (ConvNeXt V2, arXiv 2301.00808, figure 3)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fcmae.analysis.distance import channel_statistics
from fcmae.analysis.forward import Forward, eval_mode
from fcmae.analysis.taps import Features, FoundBlock, Tap, find_blocks, tap_of, watched
from fcmae.errors import UserError
from fcmae.sparse.grid import densify
from fcmae.sparse.sites import ActiveSites


class NoGridError(UserError):
    """The positions of a block do not form a grid in raster order, so they cannot be drawn."""


class FeatureMaps(NamedTuple):
    """Feature maps of some channels of one block."""

    layer: str
    tap: Tap
    maps: Tensor
    """float32 [N, h, w] on the CPU; NaN where masked."""
    dead: Tensor
    """bool [N]; see :func:`fcmae.analysis.distance.channel_statistics`."""
    saturated: Tensor
    """bool [N]."""
    channels: int
    """Number of channels of the block; the N maps are evenly spaced among them."""
    distance: float
    """Over all channels, for this image; so are the two shares."""
    dead_share: float
    saturated_share: float


def choose_blocks(blocks: Sequence[FoundBlock], wanted: Sequence[str]) -> list[FoundBlock]:
    """Blocks selected by name or depth (0: first, 1: last), without duplicates, in network order.

    Raises:
        UserError: a selector is neither a block's name nor a depth.
    """
    places: set[int] = set()
    by_name = {block.name: place for place, block in enumerate(blocks)}
    for name in wanted:
        try:
            depth = by_name[name] / max(1, len(blocks) - 1) if name in by_name else float(name)
        except ValueError:
            depth = math.nan
        if not 0 <= depth <= 1:
            raise UserError(
                f"{name} is neither a block nor a depth from 0 to 1; the blocks are {blocks[0].name} … "
                f"{blocks[-1].name}, {len(blocks)} in all"
            )
        places.add(round(depth * (len(blocks) - 1)))
    return [blocks[place] for place in sorted(places)]


def feature_maps(
    model: nn.Module,
    image: Tensor,
    layers: Sequence[str],
    tap: Tap = "act",
    *,
    count: int = 64,
    mask_ratio: float | None = None,
    seed: int = 0,
    place: int = 0,
) -> list[FeatureMaps]:
    """Maps of ``count`` evenly spaced channels (all if there are fewer) of some blocks, for one image.

    Args:
        model: as of :func:`fcmae.analyze_collapse`, as are ``tap``, ``mask_ratio`` and ``seed``.
        image: [1, C, H, W], normalized.
        layers: names of blocks, or depths from 0 to 1.
        count: number of channels per block.
        place: index of the image among the analyzed images; it gets the same random mask as there.

    Raises:
        NoGridError: positions that cannot be drawn.
        UserError: as :func:`fcmae.analyze_collapse` and :func:`choose_blocks` do.
    """
    forward = Forward(model, mask_ratio, seed=seed, first=place)
    found: list[FeatureMaps] = []

    def see(block: FoundBlock, features: Features) -> None:
        if features.grid_hw is None and hasattr(model, "unroll"):
            raise NoGridError(f"{type(model).__name__} keeps its tokens in an order of its own and cannot be drawn")
        x_BMC = features.x.float()
        statistics = channel_statistics(x_BMC)
        channels = x_BMC.shape[2]
        taken = torch.linspace(0, channels - 1, min(count, channels), device=x_BMC.device).round().long()
        dead, saturated = statistics.dead[0], statistics.saturated[0]
        found.append(
            FeatureMaps(
                layer=block.name,
                tap=tap_of(block.module, tap),
                maps=_on_grid(x_BMC[0, :, taken], features.grid_hw, forward.sites, image).cpu(),
                dead=dead[taken].cpu(),
                saturated=saturated[taken].cpu(),
                channels=channels,
                distance=float(statistics.distance),
                dead_share=float(dead.float().mean()),
                saturated_share=float(saturated.float().mean()),
            )
        )

    with eval_mode(model), watched(model, choose_blocks(find_blocks(model), layers), tap, see):
        forward(image)
    return found


def _on_grid(x_MN: Tensor, grid_hw: tuple[int, int] | None, sites: ActiveSites | None, image: Tensor) -> Tensor:
    """[M, N] → [N, h, w]."""
    positions, maps = x_MN.shape
    if sites is not None:
        side = math.isqrt(positions // sites.num_visible)
        seen = densify(torch.ones_like(x_MN[:, :1]), sites, side)
        return densify(x_MN, sites, side).masked_fill(seen == 0, math.nan)[0]
    if grid_hw is None:  # tokens: the grid has the image's aspect ratio
        height = max(1, round(math.sqrt(positions * image.shape[2] / image.shape[3])))
        if positions % height:
            raise NoGridError(f"{positions} tokens of an image {list(image.shape)} do not form a grid")
        grid_hw = (height, positions // height)
    return x_MN.t().reshape(maps, *grid_hw)

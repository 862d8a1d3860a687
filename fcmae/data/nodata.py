"""Missing pixels and the mask: a patch that is mostly missing is neither shown to the encoder nor scored."""

from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

MISSING_SHARE = 0.5
"""A patch with at least this share of its values missing counts as missing."""


def scored_patches(image: Tensor, grid_hw: tuple[int, int]) -> Tensor | None:
    """bool [h, w]: the patches of [C, H, W] of which more than half of the values are there; None if all are."""
    if not image.is_floating_point():
        return None
    gone = image.isnan()
    if not gone.any():
        return None
    share = F.adaptive_avg_pool2d(gone.float().mean(0, keepdim=True), grid_hw)[0]  # patches are of one size
    scored = share < MISSING_SHARE
    return None if bool(scored.all()) else scored


def moved_to(scored: Tensor, visible: Tensor, random: Random) -> Tensor:
    """A mask with as many visible patches, moved from patches that are not scored to others while there are any.

    Args:
        scored: bool [h, w], from :func:`scored_patches`.
        visible: bool [h, w].
        random: draws which patches.
    """
    wrong = torch.flatten(visible & ~scored).nonzero().flatten().tolist()
    free = torch.flatten(~visible & scored).nonzero().flatten().tolist()
    count = min(len(wrong), len(free))
    if not count:
        return visible
    moved = visible.clone()
    moved.view(-1)[random.sample(wrong, count)] = False
    moved.view(-1)[random.sample(free, count)] = True
    return moved

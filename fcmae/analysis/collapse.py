"""Feature collapse (ConvNeXt V2, arXiv 2301.00808, figure 4): how similar the channels of each block are.

The paper does not say which tensor it measures; it finds collapse in the MLP's dimension-expansion layer and shows
activations. The default here is ``act``, after GELU. It is the same tensor in ConvNeXt V1 and V2 and in a ViT, and dead
and saturated neurons are defined by their activations. (GRN scales each channel and adds a bias. Cosines ignore the
magnitude of the scale, so ``grn`` differs from ``act`` only by GRN's bias and by signs.)
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fcmae.analysis.distance import channel_statistics, effective_ranks
from fcmae.analysis.forward import Forward, eval_mode
from fcmae.analysis.taps import TAPS, Features, FoundBlock, Tap, find_blocks, tap_of, watched
from fcmae.errors import UserError


@dataclass(frozen=True)
class BlockCollapse:
    """Statistics of one block over all images."""

    layer: str
    """Name of the block in the network."""
    stage: int
    """From 0."""
    depth: float
    """Relative depth of the block: 0 for the first, 1 for the last."""
    tap: Tap
    """The tensor that was read. It differs from the requested one in blocks that lack that."""
    channels: int
    images: int
    distance: float
    """Mean over the images of the cosine distance, 0 … 1/2; see :func:`fcmae.analysis.distance.cosine_distance`."""
    distance_se: float
    """Its standard error, sample deviation / √images; NaN for one image."""
    dead: float
    """Mean share of dead channels, 0 … 1."""
    saturated: float
    """Mean share of saturated channels, 0 … 1."""
    effective_rank: float | None
    """Mean effective rank of the channels; None unless requested."""


def analyze_collapse(
    model: nn.Module,
    images: Tensor | Iterable[Tensor],
    tap: Tap = "act",
    *,
    mask_ratio: float | None = None,
    visible: Tensor | None = None,
    effective_rank: bool = False,
    batch_size: int = 32,
    seed: int = 0,
) -> list[BlockCollapse]:
    """Cosine distance and shares of dead and saturated channels of every block, averaged over images.

    Args:
        model: an :class:`fcmae.FCMAE` (its encoder is analyzed) or ``SparseConvNeXt``; or a dense network with timm's
            block names: ConvNeXt, ViT, Swin, ResNet, … It runs in eval mode; its previous mode is restored.
        images: [N, C, H, W], normalized; or an iterable of such batches, read once and not kept in memory.
        tap: tensor to read in each block, see :data:`fcmae.analysis.taps.Tap`. For blocks without an MLP (ResNet) it
            is the block's output; the rows say so.
        mask_ratio: sparse encoders only: share of the patches to mask at random; 0: everything visible. None: the
            FCMAE's own ratio, or 0 for a bare encoder.
        visible: sparse encoders only, instead of ``mask_ratio``: bool [N, h, w], True = kept, one mask per image.
        effective_rank: also compute the effective rank, which costs more than everything else.
        batch_size: batch size used to split a single tensor.
        seed: seed of the masks. An image's mask depends only on the seed and the image's position.

    Returns:
        One row per block, in network order.

    Raises:
        ValueError: an unknown tap, no blocks, no images, images or masks of wrong shapes, masks for a dense network,
            features that are not finite, or a block that runs twice in a forward pass or has no batch axis.
    """
    if tap not in TAPS:
        raise UserError(f"tap must be one of {', '.join(TAPS)}, got {tap!r}")
    forward = Forward(model, mask_ratio, visible, seed)
    blocks = find_blocks(model)
    sums = {block.name: _Sums(block.name) for block in blocks}

    def see(block: FoundBlock, features: Features) -> None:
        found = channel_statistics(features.x)
        kind = found.distance.dtype
        values = [found.distance, found.dead.to(kind).mean(1), found.saturated.to(kind).mean(1)]
        values += [effective_ranks(features.x)] if effective_rank else []
        sums[block.name].see(torch.stack(values), channels=features.x.shape[2])

    with eval_mode(model), watched(model, blocks, tap, see):
        for batch in images.split(batch_size) if isinstance(images, Tensor) else images:
            forward(batch)
            for each in sums.values():  # not in the hooks, because each would synchronize the GPU
                each.add(len(batch))
    if forward.images_seen == 0:
        raise UserError("there are no images to analyze")
    if visible is not None and len(visible) != forward.images_seen:
        raise UserError(f"visible holds masks of {len(visible)} images, but there were {forward.images_seen}")
    return [
        sums[block.name].row(block, place / max(1, len(blocks) - 1), tap_of(block.module, tap))
        for place, block in enumerate(blocks)
    ]


class _Sums:
    """Running means over images, and the squared deviations of the first value (Chan et al.), in float64."""

    def __init__(self, name: str) -> None:
        self.name, self.channels, self.images = name, 0, 0
        self.mean_V, self.squares = torch.zeros((), dtype=torch.float64), 0.0
        self.now_VB: Tensor | None = None

    def see(self, values_VB: Tensor, channels: int) -> None:
        """Keep the values of a batch, on their device."""
        if self.now_VB is not None:
            raise UserError(f"{self.name} runs more than once in a forward pass, so its output is ambiguous")
        self.now_VB, self.channels = values_VB, channels

    def add(self, images: int) -> None:
        """Add the values of the batch to the sums."""
        if self.now_VB is None:
            raise UserError(f"{self.name} did not run in the forward pass, so there is nothing to analyze")
        values_VB, self.now_VB = self.now_VB.cpu().double(), None
        if values_VB.shape[1] != images:
            raise UserError(
                f"the first axis of {self.name}'s tensor holds {values_VB.shape[1]} parts, not the {images} images of "
                f"the batch; networks that fold windows into the batch axis cannot be analyzed at this tap, try another"
            )
        if not values_VB.isfinite().all():
            raise UserError(f"the features of {self.name} are not finite; the weights or the images hold inf or NaN")
        mean_V = values_VB.mean(1)
        step_V, total = mean_V - self.mean_V, self.images + images
        self.squares += float((values_VB[0] - mean_V[0]).square().sum())
        if self.images:
            self.squares += float(step_V[0]) ** 2 * self.images * images / total
        self.mean_V = self.mean_V + step_V * (images / total)
        self.images = total

    def row(self, block: FoundBlock, depth: float, tap: Tap) -> BlockCollapse:
        distance, dead, saturated, *rank = self.mean_V.tolist()
        error = math.sqrt(self.squares / (self.images - 1) / self.images) if self.images > 1 else math.nan
        return BlockCollapse(
            layer=block.name, stage=block.stage, depth=depth, tap=tap, channels=self.channels, images=self.images,
            distance=distance, distance_se=error, dead=dead, saturated=saturated,
            effective_rank=rank[0] if rank else None,
        )  # fmt: skip

"""The recipe for small sets, ``--config auto``: settings by the set's size, the batch and the image size.

The values paid on two sets (docs/experiments/label-efficiency.md): 1,969 gray photographs at 128² and 60,000 gray
pictures at 32², with convnextv2_atto. Where others were tried, none did better beyond the noise.
"""

import math
from typing import Any

from fcmae.config.train import BASE_BATCH, BATCH_SIZE, WARMUP_SHARE  # the defaults are what was measured, too
from fcmae.models.sizes import SIZES

AUTO = "auto"
"""Name of the recipe."""
LIMIT = 100_000
"""Images to train on from which the recipe is no default: the paper's values are for a million."""
PEAK_LR, PEAK_BATCH = 1.5e-3, 256
"""For any batch up to this one: the paper's rule, linear from a batch of 4096, makes 9e-6 of it at 16. 5e-3 did as
well."""
IMAGES_SEEN = 240_000
"""In all epochs together, about as measured: 122 epochs of 1,969 images, 4 of 60,000. A third did as well for the
former."""
EPOCHS = (3, 800)
"""Least and most: the 3 that paid for the larger set, and the paper's 800."""
CROP_SCALE = (0.3, 1.0)
"""From 0.3 and from 0.4 on the two sets; from 0.08 and from 0.6 did as well. The paper's begin at 0.2."""
DECODER_DIM = 256
"""Half the paper's, for speed; 128 and 512 did as well."""
GRID = 4
"""Least number of patches along a side, that of both sets: of 128² pixels with patches of 32, of 32² with patches of 8.
Eight on the first cost four times as much and did as well; two on the second did a little worse, within the noise."""
MEAN, STD = "auto", "auto"
"""Of the set itself; ImageNet's values are those of photographs in color."""

NAMES = frozenset(
    (
        *("model.stem_stride", "model.decoder_dim", "data.crop_scale", "data.mean", "data.std"),
        *("train.epochs", "train.batch_size", "train.base_lr", "train.warmup_epochs"),
    )
)
"""The settings that the recipe chooses."""
OF_WEIGHTS = frozenset(("model.stem_stride", "model.decoder_dim", "data.mean", "data.std"))
"""Those that are the weights' own where training starts from some; what they do not state has its default."""


def stem_stride(name: str, image_hw: tuple[int, int]) -> int:
    """The size's own stride, or the largest smaller one with at least ``GRID`` × ``GRID`` patches, or the smallest.

    Only those whose patches divide the image count. If there are none it is the smallest, for a line that refuses.
    """
    size = SIZES[name]
    per_stride = 2 ** (len(size.depths) - 1)  # pixels of a patch's side
    strides = sorted((one for one in size.stem_strides if one <= size.stem_stride), reverse=True)
    strides = [one for one in strides if not any(side % (one * per_stride) for side in image_hw)] or strides[-1:]
    return next((one for one in strides if min(image_hw) >= GRID * one * per_stride), strides[-1])


def epochs(samples: int) -> int:
    """Passes over a set with so many samples in an epoch."""
    least, most = EPOCHS
    return max(least, min(most, round(IMAGES_SEEN / samples)))


def base_lr(effective_batch: int) -> float | None:
    """``train.base_lr``; None, for a batch above ``PEAK_BATCH``: what suits any set."""
    return PEAK_LR * BASE_BATCH / effective_batch if effective_batch <= PEAK_BATCH else None


def values(
    name: str,
    image_hw: tuple[int, int],
    samples: int,
    effective_batch: int,
    given_epochs: int | None = None,
    given_warmup: float = 0.0,
) -> dict[str, Any]:
    """All settings of the recipe, by dotted name.

    Args:
        name: of the network.
        image_hw: height and width that it takes.
        samples: of an epoch.
        effective_batch: images of an optimizer step.
        given_epochs: in place of the recipe's, for the warm-up.
        given_warmup: epochs; the recipe has more of them than these.
    """
    found = max(epochs(samples), math.floor(given_warmup) + 1)
    return {
        "model.stem_stride": stem_stride(name, image_hw),
        "model.decoder_dim": DECODER_DIM,
        "data.crop_scale": CROP_SCALE,
        "data.mean": MEAN,
        "data.std": STD,
        "train.epochs": found,
        "train.batch_size": BATCH_SIZE,
        "train.base_lr": base_lr(effective_batch),
        "train.warmup_epochs": round(WARMUP_SHARE * (given_epochs or found), 3),
    }

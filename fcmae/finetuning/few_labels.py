"""The settings of the recipe for few labels that follow from the images and the batch.

Measured with atto on two sets: docs/experiments/label-efficiency.md.
"""

from typing import Any

from fcmae.config.train import BASE_BATCH

FEW_LABELS, FEW_LABELS_LARGE = "few_labels", "few_labels_large"
"""Names of the recipes: for atto to nano, and for larger networks."""
PEAK_LR = 3e-3
"""The best of 3e-4, 1e-3, 3e-3 and 6e-3 on both sets, with batches of 32. No more with larger ones: from random weights
6e-3 diverged on one."""
IMAGES_SEEN, EPOCHS = 20_000, (30, 60)
"""In all epochs together, and the least and most epochs: 60 epochs of 197 images and 30 of 600 were measured; more
images with fewer epochs than the least, such as 20 of 1,969."""
WARMUP_SHARE = 0.1
"""Of the epochs; others were not tried."""
NAMES = frozenset(("train.epochs", "train.warmup_epochs", "train.base_lr"))
"""The settings that the file of ``FEW_LABELS`` leaves open."""


def epochs(images: int) -> int:
    """Passes over so many labeled images."""
    least, most = EPOCHS
    return max(least, min(most, round(IMAGES_SEEN / images)))


def values(images: int, effective_batch: int, given_epochs: int | None = None) -> dict[str, Any]:
    """What the recipe's file leaves open, by dotted name.

    Args:
        images: to train on.
        effective_batch: images of an optimizer step.
        given_epochs: in place of the recipe's, for the warm-up.
    """
    passes = epochs(images)
    return {
        "train.epochs": passes,
        "train.warmup_epochs": round(WARMUP_SHARE * (given_epochs or passes), 3),
        "train.base_lr": PEAK_LR * BASE_BATCH / effective_batch,
    }

"""The settings of the recipes for few labels that follow from the images, the batch and the weights.

Measured with atto on two sets: docs/experiments/label-efficiency.md.
"""

from typing import Any

from fcmae.config.train import BASE_BATCH

FEW_LABELS, FEW_LABELS_LARGE = "few_labels", "few_labels_large"
"""Names of the recipes: for atto to nano, and for larger networks."""
PEAK_LR = 3e-3
"""The best of 3e-4, 1e-3 and 3e-3 on both sets, with batches of 32. No more with larger ones: from random weights 6e-3
diverged."""
IMAGES_SEEN, EPOCHS = 20_000, (30, 60)
"""In all epochs together, and the least and most epochs, about as measured: 60 epochs of 197 images, 30 of 600 and of
1,969."""
WARMUP_SHARE = 0.1
"""Of the epochs, as measured."""
LAYER_DECAY = {FEW_LABELS: 0.8, FEW_LABELS_LARGE: 0.9}
SCRATCH_LAYER_DECAY = 1.0
"""Random layers are not worth keeping."""
NAMES = frozenset(("train.layer_decay", "train.epochs", "train.warmup_epochs", "train.base_lr"))
"""The settings that the recipes' files leave open."""


def epochs(images: int) -> int:
    """Passes over so many labeled images."""
    least, most = EPOCHS
    return max(least, min(most, round(IMAGES_SEEN / images)))


def values(
    recipe: str, images: int, effective_batch: int, from_scratch: bool, given_epochs: int | None = None
) -> dict[str, Any]:
    """What a recipe's file leaves open, by dotted name.

    Args:
        recipe: ``FEW_LABELS``, or ``FEW_LABELS_LARGE``, whose file leaves layer decay open alone.
        images: to train on.
        effective_batch: images of an optimizer step.
        from_scratch: whether training starts from random weights.
        given_epochs: in place of the recipe's, for the warm-up.
    """
    found: dict[str, Any] = {"train.layer_decay": SCRATCH_LAYER_DECAY if from_scratch else LAYER_DECAY[recipe]}
    if recipe == FEW_LABELS:
        passes = epochs(images)
        found |= {
            "train.epochs": passes,
            "train.warmup_epochs": round(WARMUP_SHARE * (given_epochs or passes), 3),
            "train.base_lr": PEAK_LR * BASE_BATCH / effective_batch,
        }
    return found

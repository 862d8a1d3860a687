"""The moving average of the weights (EMA), by timm."""

import logging

from timm.utils import ModelEmaV3
from torch import nn

logger = logging.getLogger("fcmae")

START_SHARE = 0.01
"""Of the average after the last step, what the initial weights may make up at most."""


def average_decay(decay: float, total_steps: int) -> float:
    """``decay``, or a lower one for a run so short that the average would mostly be the initial weights.

    0.9999 suits the papers' runs of 60,000 steps and more; after 1,000 steps it would leave 90% of the initial weights.
    """
    return min(decay, START_SHARE ** (1 / total_steps))


def make_average(model: nn.Module, decay: float, total_steps: int) -> ModelEmaV3 | None:
    """The average, which begins at the weights of ``model``; None for a decay of 0."""
    if not decay:
        return None
    used = average_decay(decay, total_steps)
    if used < decay:
        logger.warning(
            "--train.ema %g is lowered to %.4g: of %s steps the average would keep %.0f%% of the initial weights",
            decay, used, f"{total_steps:,}", 100 * decay**total_steps,
        )  # fmt: skip
    return ModelEmaV3(model, decay=used)

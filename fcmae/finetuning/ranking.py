"""Which validation of a run is the best, as metrics.jsonl tells."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fcmae.runs.layout import METRICS
from fcmae.runs.reader import Series, read_metrics

MAIN = ("val_top1", "val_map")
"""Names in metrics.jsonl of what the best weights are chosen by; a run has one of them."""
Rank = tuple[float, float]
NONE: Rank = -math.inf, -math.inf
"""Below every validation."""


def rank(score: float, loss: float) -> Rank:
    """What the best validation has the largest of: of equal scores, which small sets often have, the lower loss."""
    return score, -loss


def best_score(run: Path) -> tuple[float | None, int | None]:
    """The best validation score in metrics.jsonl (:func:`rank`) and its step; None: there was no validation."""
    series, _ = read_metrics(run / METRICS)
    _, score, step = best_of(series) or (None, None, None)
    return score, step


def best_of(series: Mapping[str, Series]) -> tuple[str, float, int] | None:
    """The name of the score, the best validation score and its step; None: there was no validation."""
    for name in MAIN:
        if name in series and np.isfinite(series[name].value).any():
            losses = _by_step(series["val_loss"]) if "val_loss" in series else {}
            found = _by_step(series[name])
            step = max(found, key=lambda step: (rank(found[step], losses.get(step, math.inf)), -step))
            return name, found[step], step
    return None


def _by_step(series: Series) -> dict[int, float]:
    return {int(step): float(v) for step, v in zip(series.step, series.value, strict=True) if np.isfinite(v)}

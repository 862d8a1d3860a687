"""Accuracy with a 95% confidence interval."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

Z_95 = 1.959963984540054  # the normal distribution's 97.5% quantile


@dataclass(frozen=True)
class Accuracy:
    """Correct predictions out of a total."""

    correct: int
    total: int

    @property
    def share(self) -> float:
        """correct / total, in 0 … 1."""
        return self.correct / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% score interval (Wilson 1927). It stays inside 0 … 1 and is not empty at either end.

        It covers the sampling error of a test set of this size, not the variation between training runs.
        """
        n, p, z = self.total, self.share, Z_95
        center = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, center - half), min(1.0, center + half)


def top_accuracy(scores_NC: Tensor, labels_N: Tensor, top: int = 1) -> Accuracy:
    """Top-``top`` accuracy: how often the label is among the ``top`` highest scores.

    A class with score −∞ never counts as predicted, whatever its rank.
    """
    best = scores_NC.topk(min(top, scores_NC.shape[1]))
    hit = (best.indices == labels_N[:, None]) & (best.values > -torch.inf)
    return Accuracy(int(hit.any(1).sum()), len(labels_N))

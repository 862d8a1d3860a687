"""Accuracies and their intervals."""

import pytest
import torch
from scipy.stats import binomtest

from fcmae.analysis.accuracy import Accuracy, top_accuracy


@pytest.mark.parametrize(("correct", "total"), [(0, 10), (3, 10), (10, 10), (812, 1000), (1, 1)])
def test_intervals_are_wilsons(correct: int, total: int) -> None:
    """Against scipy; (3, 10) is in the literature too: 0.108 to 0.603."""
    theirs = binomtest(correct, total).proportion_ci(0.95, method="wilson")
    assert Accuracy(correct, total).interval == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    if (correct, total) == (3, 10):
        assert Accuracy(3, 10).interval == pytest.approx((0.108, 0.603), abs=5e-4)


def test_top_accuracy_counts_ranks() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [3.0, -torch.inf, 1.0]])
    labels = torch.tensor([1, 1, 1])
    assert [top_accuracy(scores, labels, top).correct for top in (1, 2, 3, 9)] == [0, 2, 2, 2]

"""Shared by all tests: a fixed seed for each, two threads, and the masks that are easy to get wrong."""

import pytest
import torch

torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def random_visible(batch: int, height: int, width: int, num_visible: int) -> torch.Tensor:
    """bool [B, h, w] with the same number of patches kept in each image."""
    order = torch.rand(batch, height * width).argsort(1)
    return (order < num_visible).view(batch, height, width)


# (batch, h, w, K): H ≠ W, a 1×1 grid, K = 1, K = all, one row, one column, a batch of 1
GRIDS = [
    pytest.param((2, 3, 4, 5), id="oblong"),
    pytest.param((3, 1, 1, 1), id="one-patch-grid"),
    pytest.param((2, 3, 3, 1), id="K=1"),
    pytest.param((2, 2, 3, 6), id="K=all"),
    pytest.param((2, 1, 5, 2), id="one-row"),
    pytest.param((1, 4, 1, 2), id="one-column-batch-1"),
]

"""Depthwise convolution and the table of neighboring patches, against the oracle."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fcmae.sparse import reference as ref
from fcmae.sparse.backends import pytorch
from fcmae.sparse.backends.triton import depthwise, neighbors
from fcmae.sparse.grid import densify, gather_sites
from fcmae.sparse.sites import ActiveSites
from tests.conftest import GRIDS, random_visible
from tests.sparse.against_oracle import compare
from tests.sparse.backends.triton.made import DEVICE, DTYPES, randn


def conv_and_oracle(visible: Tensor, side: int) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    sites = ActiveSites(visible)
    return (
        lambda x, w, b: depthwise.depthwise_conv(x, w, b, sites, side),
        lambda x, w, b: gather_sites(ref.depthwise_conv(densify(x, sites, side), w, b, visible, side), sites, side),
    )


@pytest.mark.parametrize("size", [1, 3, 7, 9])
@pytest.mark.parametrize("side", [1, 2, 4, 8])
@pytest.mark.parametrize("grid", GRIDS)
def test_neighbors_are_the_visible_patches_around(grid: tuple[int, int, int, int], side: int, size: int) -> None:
    """table[n, dy, dx] is the patch at that offset from patch n, or −1; near lists those there are."""
    visible = random_visible(*grid)
    sites = ActiveSites(visible.to(DEVICE))
    table, near, count = (t.cpu() for t in neighbors.neighbors_of(sites, side, size))
    reach = -(-(size // 2) // side)
    place_of = visible.nonzero().tolist()
    for patch, (image, y, x) in enumerate(place_of):
        around = [[image, y + dy, x + dx] for dy in range(-reach, reach + 1) for dx in range(-reach, reach + 1)]
        expected = [place_of.index(place) if place in place_of else -1 for place in around]
        assert table[patch].tolist() == expected
        listed = [[slot, offset] for offset, slot in enumerate(expected) if slot >= 0]
        assert near[patch, : count[patch]].tolist() == listed


def test_neighbors_are_made_once_for_a_reach() -> None:
    sites = ActiveSites(random_visible(2, 3, 3, 4).to(DEVICE))
    assert neighbors.neighbors_of(sites, 8, 7) is neighbors.neighbors_of(sites, 4, 7)
    assert neighbors.neighbors_of(sites, 8, 7) is not neighbors.neighbors_of(sites, 2, 7)


@pytest.mark.usefixtures("gpu_tiling", "poisoned")
@pytest.mark.parametrize(
    ("side", "size", "channels"), [(8, 3, 5), (4, 5, 17), (2, 3, 19), (1, 7, 70), (2, 9, 3), (16, 3, 2)]
)
def test_convolution_cut_as_on_a_gpu(side: int, size: int, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several programs and blocks that do not come out even, chunks of several patches and of less in wgrad."""
    monkeypatch.setattr(depthwise, "WGRAD_PROGRAMS", 2)
    visible = random_visible(1, 2, 3, 3).to(DEVICE)
    rows = 3 * side * side
    conv, oracle = conv_and_oracle(visible, side)
    compare(
        lambda x, w, b: conv(x.t().contiguous().t(), w, b),
        oracle,
        randn((rows, channels), (channels, 1, size, size), (channels,)),
        torch.float32,
    )


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("side", [1, 2, 4, 8])
def test_convolution_in_every_dtype(side: int, dtype: torch.dtype) -> None:
    visible = random_visible(2, 2, 3, 4).to(DEVICE)
    tensors = randn((8 * side * side, 6), (6, 1, 7, 7), (6,))
    compare(*conv_and_oracle(visible, side), tensors, dtype)


def test_float64_is_pytorchs() -> None:
    """A network with ``auto`` has this backend on a GPU, whatever its type."""
    sites = ActiveSites(random_visible(2, 2, 2, 1))
    inputs = torch.randn(sites.num_sites(2), 3).double(), torch.randn(3, 1, 3, 3).double(), torch.randn(3).double()
    results = []
    for operation in (depthwise.depthwise_conv, pytorch.depthwise_conv):
        leaves = [t.clone().requires_grad_() for t in inputs]
        out = operation(*leaves, sites, 2)
        results.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == torch.float64
        assert torch.equal(ours, theirs)


def test_says_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    sites = ActiveSites(random_visible(1, 2, 2, 1))
    x, weight = torch.randn(sites.num_sites(2), 3), torch.randn(3, 1, 3, 3)
    with pytest.raises(ValueError, match="must be of one type"):
        depthwise.depthwise_conv(x, weight.half(), None, sites, 2)
    with monkeypatch.context() as patch:
        patch.setattr(depthwise, "MAX_ROWS", 3)
        with pytest.raises(ValueError, match="at most 3 rows, got 4"):
            depthwise.depthwise_conv(x, weight, None, sites, 2)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ValueError, match="the triton backend needs a GPU; take backend 'torch'"):
        depthwise.depthwise_conv(x, weight, None, sites, 2)

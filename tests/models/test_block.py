"""The block: what it computes of a part, and what observers of its MLP see."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fcmae.models.block import Block
from fcmae.models.layers import use_backend
from fcmae.sparse.backends.pytorch import grn
from fcmae.sparse.sites import ActiveSites
from tests.conftest import random_visible


def block_of(dim: int, backend: str, use_grn: bool = True, ls_init_value: float | None = None) -> Block:
    block = Block(dim, use_grn=use_grn, ls_init_value=ls_init_value, drop_path=0.5 if ls_init_value else 0.0).double()
    use_backend(block, backend)
    if use_grn:
        torch.nn.init.normal_(block.mlp.grn.weight)
    return block


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("use_grn", [True, False])
@pytest.mark.parametrize("ls_init_value", [None, 0.5])
def test_the_output_that_is_needed_is_that_of_the_whole(
    use_grn: bool, ls_init_value: float | None, backend: str
) -> None:
    """With LayerScale and drop path, which drops an image as a whole, and without."""
    block = block_of(8, backend, use_grn, ls_init_value)
    everywhere, needed = ActiveSites.full(6, 2, 4), ActiveSites(random_visible(6, 2, 4, 3))
    x = torch.randn(48, 8, dtype=torch.float64, requires_grad=True)
    rows = needed.grid_index(1)
    results = []
    for only in (None, needed):
        torch.manual_seed(0)
        out = block(x, everywhere, 1, only)
        out = out.index_select(0, rows) if only is None else out
        results.append((out, *torch.autograd.grad(out.square().sum(), [x, *block.parameters()])))
    dropped = [torch.equal(image, x[part]) for image, part in zip(out.split(3), rows.split(3), strict=True)]
    assert any(dropped) == (ls_init_value is not None)
    assert not all(dropped)
    for whole, some in zip(*results, strict=True):
        torch.testing.assert_close(some, whole)


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("use_grn", [True, False])
def test_observers_see_the_hidden_tensors_and_change_nothing(use_grn: bool, backend: str) -> None:
    block = block_of(6, backend, use_grn)
    sites = ActiveSites(random_visible(2, 3, 3, 4))
    x = torch.randn(sites.num_sites(2), 6, dtype=torch.float64)
    expected = block(x, sites, 2)
    seen: dict[str, Tensor] = {}
    handles = [block.observe(lambda name, hidden, batch: seen.update({name: hidden, "batch": batch})) for _ in "ab"]
    torch.testing.assert_close(block(x, sites, 2), expected)
    assert seen.pop("batch") == 2
    y = block.mlp.fc1(block.norm(block.conv_dw(x, sites, 2)))
    layers = {"expansion": y, "act": F.gelu(y)}
    if use_grn:
        layers["grn"] = grn(layers["act"], block.mlp.grn.weight, block.mlp.grn.bias, 2)
    assert seen.keys() == layers.keys()
    for name, hidden in seen.items():
        torch.testing.assert_close(hidden, layers[name])
    for handle in handles:
        handle.remove()
    seen.clear()
    assert torch.equal(block(x, sites, 2), expected)
    assert not seen


def test_a_copy_computes_the_same() -> None:
    block, sites = block_of(6, "numba"), ActiveSites(random_visible(2, 3, 3, 4))
    x = torch.randn(sites.num_sites(2), 6, dtype=torch.float64)
    assert torch.equal(copy.deepcopy(block)(x, sites, 2), block(x, sites, 2))
    with_observer = block.observe(lambda *_: pytest.fail("of a copy"))
    assert not copy.deepcopy(block).observers
    with_observer.remove()

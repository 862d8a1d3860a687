"""The GPU kernels: blocks, operators, torch.compile; in Triton's interpreter where there is no GPU."""

import pytest
import torch
from torch import Tensor

from fcmae.sparse import ActiveSites, densify, gather_sites, resolve_backend
from fcmae.sparse import reference as ref
from fcmae.sparse.backends.triton import depthwise
from tests.conftest import random_visible
from tests.sparse.against_oracle import compare

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def test_triton_with_more_rows_and_channels_than_a_block() -> None:
    """Several blocks of rows and of channels, chunks of more than one block in wgrad, features not contiguous."""
    visible = random_visible(3, 3, 3, 4).to(DEVICE)
    sites = ActiveSites(visible)
    rows, channels = sites.num_sites(2), 16 + 7
    assert rows == 3 * 16
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(depthwise, "BLOCK_ROWS", 16)
        patch.setattr(depthwise, "MAX_BLOCK_CHANNELS", 16)
        patch.setattr(depthwise, "WGRAD_PROGRAMS", 27)  # two chunks, of two blocks and of one
        compare(
            lambda x, w, b: depthwise.depthwise_conv(x.t().contiguous().t(), w, b, sites, 2),
            lambda x, w, b: gather_sites(ref.depthwise_conv(densify(x, sites, 2), w, b, visible, 2), sites, 2),
            [
                t.to(DEVICE)
                for t in (torch.randn(rows, channels), torch.randn(channels, 1, 3, 3), torch.randn(channels))
            ],
            torch.float32,
        )


def test_triton_operators_are_what_torch_expects_of_operators() -> None:
    """Schema, fake implementation and autograd registration, so that torch.compile may trace through them."""
    sites = ActiveSites(random_visible(2, 2, 3, 3).to(DEVICE))
    x = torch.randn(sites.num_sites(2), 4, device=DEVICE, requires_grad=True)
    taps = torch.randn(9, 4, device=DEVICE, requires_grad=True)
    bias = torch.randn(4, device=DEVICE, requires_grad=True)
    where = (sites.patches.flatten().int(), sites.patch_slot(), 2)
    torch.library.opcheck(depthwise._convolve_op, (x, taps, bias, *where, False))
    torch.library.opcheck(depthwise._wgrad_op, (x.detach(), x.detach(), *where, 3))


def test_triton_compiles_without_a_break() -> None:
    conv = resolve_backend("triton").depthwise_conv
    sites = ActiveSites(random_visible(2, 2, 3, 3).to(DEVICE))
    x, weight = torch.randn(sites.num_sites(2), 4, device=DEVICE), torch.randn(4, 1, 3, 3, device=DEVICE)

    weight.requires_grad_()

    def loss(x: Tensor, weight: Tensor) -> Tensor:
        return conv(x, weight, None, sites, 2).square().sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for run in (loss, compiled):
        x.grad = weight.grad = None
        run(x.requires_grad_(), weight).backward()
        if run is loss:
            expected = x.grad, weight.grad
    torch.testing.assert_close((x.grad, weight.grad), expected)


def test_triton_says_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    sites = ActiveSites(random_visible(1, 2, 2, 1))
    x, weight = torch.randn(sites.num_sites(2), 3), torch.randn(3, 1, 3, 3)
    with pytest.raises(ValueError, match="float64"):
        depthwise.depthwise_conv(x.double(), weight.double(), None, sites, 2)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ValueError, match="the triton backend needs a GPU; take backend 'torch'"):
        depthwise.depthwise_conv(x, weight, None, sites, 2)

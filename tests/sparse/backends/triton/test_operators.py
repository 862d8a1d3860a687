"""The registered operators: the same every time, and what torch expects of operators."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import CustomOpDef

from fcmae.sparse.backends.operations import MlpWeights
from fcmae.sparse.backends.triton import depthwise, gelu_grn, grn_mlp, grn_weights, neighbors, norm, patches
from fcmae.sparse.sites import ActiveSites
from tests.conftest import random_visible
from tests.sparse.backends.triton.made import DEVICE, mlp_tensors, randn


def steps() -> Iterator[tuple[Callable[..., Tensor], list[Tensor]]]:
    """Each operation with its arguments."""
    sites = ActiveSites(random_visible(2, 2, 3, 3).to(DEVICE))
    for side in (1, 4):
        rows = sites.num_sites(side)
        yield lambda x, w, b, s=side: depthwise.depthwise_conv(x, w, b, sites, s), randn((rows, 4), (4, 1, 3, 3), (4,))
    yield lambda x, w, b: norm.layer_norm(x, w, b, 1e-6), randn((20, 6), (6,), (6,))
    for count in (3, 16):
        yield lambda x, *w: grn_mlp.mlp(x, MlpWeights(*w), 2), mlp_tensors(2, count, 4, 9, 4)


@pytest.mark.usefixtures("gpu_tiling")
def test_equal_bit_for_bit_every_time() -> None:
    for run, args in steps():
        tensors = [t.requires_grad_() for t in args]
        first, second = (
            [out, *torch.autograd.grad(out.square().sum(), tensors)] for out in (run(*tensors), run(*tensors))
        )
        for a, b in zip(first, second, strict=True):
            assert torch.equal(a, b)


def test_compiles_without_a_break() -> None:
    for run, args in steps():
        tensors = [t.requires_grad_() for t in args]
        compiled = torch.compile(lambda *a, run=run: run(*a).square().sum(), backend="aot_eager", fullgraph=True)
        expected = torch.autograd.grad(run(*tensors).square().sum(), tensors)
        torch.testing.assert_close(torch.autograd.grad(compiled(*tensors), tensors), expected)


def test_operators_are_what_torch_expects_of_operators() -> None:
    """Schema, fake implementation and autograd registration, so that torch.compile may trace through them."""
    checked = set()

    def check(operator: CustomOpDef, args: tuple, **options: Any) -> None:
        checked.add(operator)
        torch.library.opcheck(operator, args, **options)

    sites = ActiveSites(random_visible(2, 2, 3, 3).to(DEVICE))
    places = sites.patches.flatten().int()
    # what follows the last neighbor is undefined, so two results are not equal: schema and fake implementation alone
    check(neighbors._neighbors_op, (places, sites.patch_slot(), 1), test_utils=("test_schema", "test_faketensor"))
    index = neighbors.neighbors_of(sites, 2, 3)
    x, taps, bias = (t.requires_grad_() for t in randn((24, 4), (9, 4), (4,)))
    check(depthwise._convolve_op, (x, taps, bias, *index, 2, False))
    check(depthwise._wgrad_op, (x.detach(), x.detach(), index.table, 2, 3))
    weight = torch.randn(4, device=DEVICE, requires_grad=True)
    check(norm._forward_op, (x, weight, bias, 1e-6))
    check(norm._backward_op, (x.detach(), x.detach(), weight.detach(), *randn((24,), (24,))))
    h, b1, gamma, beta, w2, b2 = (t.requires_grad_() for t in randn((8, 9), (9,), (9,), (9,), (3, 9), (3,)))
    check(gelu_grn.gelu_grn_op, (h, b1, gamma, beta, 2))
    check(gelu_grn.gelu_grn_linear_op, (h, b1, gamma, beta, w2, b2, None, 2))
    check(gelu_grn.gelu_grn_linear_op, (h, b1, gamma, beta, w2, b2, torch.randn(8, 3, device=DEVICE), 2))
    saved = [t.detach() for t in (h, h, b1, gamma)]
    check(gelu_grn.gelu_grn_grad_op, (*saved, torch.rand(2, 9, device=DEVICE), None))
    check(gelu_grn.gelu_grn_grad_op, (*saved, *torch.rand(2, 2, 9, device=DEVICE)))
    images = torch.randn(2, 3, 16, 24, device=DEVICE)
    check(patches._stem_rows_op, (images, sites.patches, 2, 4, torch.bfloat16))
    check(patches._patch_pixels_op, (images, sites.patches, 8, 1e-6))
    check(grn_weights.grn_weights_grad_op, randn((2, 3, 9), (3, 9), (2, 9)))
    modules = (depthwise, gelu_grn, grn_weights, neighbors, norm, patches)
    assert checked == {op for module in modules for op in vars(module).values() if isinstance(op, CustomOpDef)}

"""The compiled loops: what each computes, that threads do not matter, and when they are left alone."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from fcmae.sparse import ActiveSites, compiled, depthwise_conv, loops
from tests.conftest import random_visible

SITES = (1, loops.SITES_PER_PART, loops.SITES_PER_PART + 1, 3 * loops.SITES_PER_PART - 7)


def images(sites: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """x and dy [B, M, C], and a number for each image and channel."""
    return (*torch.randn(2, 3, sites, 5, dtype=dtype), torch.randn(3, 1, 5, dtype=dtype))


@pytest.mark.parametrize("dtype", compiled.DTYPES)
@pytest.mark.parametrize("sites", SITES)
def test_sums_over_images(sites: int, dtype: torch.dtype) -> None:
    x, dy, _ = images(sites, dtype)
    torch.testing.assert_close(loops.sum_of_squares(x), x.square().sum(1, keepdim=True))
    products, plain = loops.sums_with(dy, x)
    torch.testing.assert_close(products, (dy * x).sum(1, keepdim=True))
    torch.testing.assert_close(plain, dy.sum(1, keepdim=True))


@pytest.mark.parametrize("dtype", compiled.DTYPES)
def test_elementwise(dtype: torch.dtype) -> None:
    x, dy, factor = images(7, dtype)
    torch.testing.assert_close(loops.scale_and_shift(x, factor, factor[0, 0]), x * factor + factor[0, 0])
    torch.testing.assert_close(loops.combine(dy, 2 * factor, x, factor), dy * 2 * factor + x * factor)


def test_tensors_that_are_not_contiguous() -> None:
    x = torch.randn(5, 3, 9).permute(1, 2, 0)
    torch.testing.assert_close(loops.sum_of_squares(x), x.square().sum(1, keepdim=True))
    expanded = torch.ones(()).expand_as(x)
    torch.testing.assert_close(loops.sums_with(expanded, x)[0], x.sum(1, keepdim=True))


def test_what_is_not_finite_is_not_hidden() -> None:
    x, _, factor = images(5, torch.float32)
    x[0, 2, 1], x[1, 2, 1] = torch.nan, torch.inf
    total = loops.sum_of_squares(x)
    assert total[0, 0, 1].isnan()
    assert total[1, 0, 1].isinf()
    assert loops.scale_and_shift(x, factor, factor[0, 0]).isfinite().logical_not().sum() == 2
    assert loops.scale_and_shift(x, factor * 0, factor[0, 0])[:2, 2, 1].isnan().all()


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    """Bit for bit: a run may go on with other threads, and shares a folder with what it wrote before."""
    sites = ActiveSites(random_visible(4, 4, 4, 7))
    x, weight = torch.randn(sites.num_sites(4), 6), torch.randn(6, 1, 7, 7)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        args = x.clone().requires_grad_(), weight.clone().requires_grad_()
        out = depthwise_conv(*args, None, sites, 4)
        gradients = torch.autograd.grad(out.square().sum(), args)
        wide = x.view(4, -1, 6)
        results.append((out, *gradients, loops.sum_of_squares(wide), *loops.sums_with(wide, wide)))
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


def test_they_are_for_wide_floats_on_a_cpu_outside_torch_compile() -> None:
    assert compiled.loops_for(torch.zeros(1)) is loops
    assert compiled.loops_for(torch.zeros(1, dtype=torch.bfloat16)) is None
    assert compiled.loops_for(torch.zeros(1, device="meta")) is None
    seen = []

    def inside(x: Tensor) -> Tensor:
        seen.append(compiled.loops_for(x))
        return x + 1

    torch.compile(inside, backend="eager")(torch.zeros(1))
    assert seen == [None]


@pytest.mark.parametrize(
    "how", ["import os; os.environ['FCMAE_NUMBA'] = '0'", "import sys; sys.modules['numba'] = None"]
)
def test_they_are_optional(how: str) -> None:
    """Switched off, or without Numba, the operations are PyTorch's."""
    code = f"""{how}
import torch
from fcmae.sparse import ActiveSites, compiled, depthwise_conv
assert compiled.loops_for(torch.zeros(1)) is None
sites = ActiveSites.full(1, 2, 2)
assert depthwise_conv(torch.ones(4, 1), torch.ones(1, 1, 3, 3), None, sites, 1).sum() == 16
"""
    subprocess.run([sys.executable, "-c", code], check=True)

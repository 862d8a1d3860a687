"""The compiled loops: what each computes, that threads do not matter, and when they are left alone."""

import subprocess
import sys

import numba
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fcmae.sparse import ActiveSites, compiled, depthwise_conv, loops
from fcmae.sparse import depthwise as dw
from tests.conftest import GRIDS, random_visible

PART = loops.mlp.SITES_PER_PART
SITES = (1, PART, PART + 1, 3 * PART - 7)


@pytest.mark.parametrize("dtype", compiled.DTYPES)
@pytest.mark.parametrize("sites", SITES)
def test_gelu_and_grn_with_their_gradients(sites: int, dtype: torch.dtype) -> None:
    """One part of an image and several; a channel that is 0 at every site. (β's gradient: test_mlp.py.)"""
    h, bias, gamma, beta = torch.randn(3, sites, 5), *torch.randn(3, 5)
    h[1, :, 2] = -bias[2]
    low = [t.to(dtype) for t in (h, bias, gamma, beta)]
    high = [t.double().requires_grad_() for t in low]
    g = F.gelu(high[0] + high[1])
    norm = (g.square().sum(1, keepdim=True) + 1e-300).sqrt()
    expected = high[2] * g * (norm / (norm.mean(2, keepdim=True) + 1e-6)) + high[3] + g
    y, norms = loops.gelu_grn(*low, 1e-6)
    near = {"atol": 1e-4, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 1e-10, "rtol": 1e-10}
    torch.testing.assert_close(y.double(), expected, **near | {"atol": min(near["atol"], 1e-5)})
    dy = torch.randn_like(y)
    wanted = torch.autograd.grad(expected, high, dy.double())
    dh, *grads = loops.gelu_grn_grad_(dy, low[0], low[1], low[2], norms, 1e-6)
    assert dh.data_ptr() == dy.data_ptr()
    for got, want in zip((dh, *grads), wanted[:3], strict=True):
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), want, **near)


@pytest.mark.parametrize("sites", SITES)
def test_the_halves_that_leave_grn_to_the_weights(sites: int) -> None:
    """Scaled afterwards, and before the way back, they give what the whole gives."""
    h, dy, bias, gamma, beta = *torch.randn(2, 3, sites, 5), *torch.randn(3, 5)
    whole, norms = loops.gelu_grn(h, bias, gamma, beta, 1e-6)
    g, same_norms, scale = loops.gelu_and_scale(h, bias, gamma, 1e-6)
    assert torch.equal(same_norms, norms)
    torch.testing.assert_close(g * scale[:, None] + beta, whole, atol=1e-6, rtol=1e-6)
    dy_g = (dy * g).sum(1)
    dh, dbias, dgamma = loops.gelu_grn_grad_(dy * scale[:, None], h, bias, gamma, norms, 1e-6, dy_g)
    expected = loops.gelu_grn_grad_(dy, h, bias, gamma, norms, 1e-6)
    for got, want in zip((dh, dbias, dgamma), expected, strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_gelu_is_exact_to_the_precision_of_a_float32() -> None:
    """From where it is 0 in float32 to where it is x; the formula's own error is 1.5e-7."""
    x = torch.cat([torch.linspace(-20, 20, 40_001), torch.tensor([0.0, -0.0, 1e-30, -1e-38, 1e18, -1e4])])
    wide = x.double().requires_grad_()
    expected = F.gelu(wide)
    (slope,) = torch.autograd.grad(expected.sum(), wide)
    h, zero = x.view(1, -1, 1), torch.zeros(1)
    y, norms = loops.gelu_grn(h, zero, zero, zero, 1e-6)  # γ = β = 0: GELU alone
    assert ((y.flatten() - expected).abs() / expected.abs().clamp_min(1)).max() < 3e-7
    assert (y.flatten()[x < -14] == 0).all()  # numbers below the smallest normal one would slow what follows
    dh, *_ = loops.gelu_grn_grad_(torch.ones_like(h), h, zero, zero, norms, 1e-6)
    assert (dh.flatten()[:-2] - slope[:-2]).abs().max() < 1e-6
    assert dh.flatten()[-2:].tolist() == [1, 0]


def test_what_is_not_finite_is_not_hidden() -> None:
    h, bias, gamma, beta = torch.randn(3, 5, 4), *torch.randn(3, 4)
    h[0, 2, 1], h[1, 2, 1] = torch.nan, torch.inf
    y, norms = loops.gelu_grn(h, bias, gamma, beta, 1e-6)
    assert norms[0, 1].isnan()
    assert norms[1, 1].isinf()
    assert y[:2].isnan().any(2).any(1).all()
    assert y[2].isfinite().all()
    dh, dbias, *_ = loops.gelu_grn_grad_(torch.randn_like(h), h, bias, gamma, norms, 1e-6)
    assert dh[0].isnan().any()
    assert dh[2].isfinite().all()
    assert dbias.isnan().any()


def test_tensors_that_are_not_contiguous() -> None:
    h, one = torch.randn(5, 3, 9).permute(1, 2, 0), torch.ones(1).expand(5)
    dense_h, dense_one = h.contiguous(), one.contiguous()
    y, norms = loops.gelu_grn(dense_h, dense_one, dense_one, dense_one, 1e-6)
    assert torch.equal(loops.gelu_grn(h, one, one, one, 1e-6)[0], y)
    expected = loops.gelu_grn_grad_(torch.ones_like(y), dense_h, dense_one, dense_one, norms, 1e-6)
    got = loops.gelu_grn_grad_(torch.ones_like(y), h, one, one, norms.t().contiguous().t(), 1e-6)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    with pytest.raises(ValueError, match="contiguous"):
        loops.gelu_grn_grad_(torch.ones(()).expand_as(h), h, one, one, norms, 1e-6)


@pytest.mark.parametrize("dtype", compiled.DTYPES)
@pytest.mark.parametrize(
    ("side", "size", "channels"),
    [(1, 5, 3), (2, 5, 3), (4, 5, 3), (8, 5, 3), (2, 7, 3), (4, 7, 3), (8, 7, 3), (4, 7, 48), (4, 7, 53), (16, 7, 100)],
)
def test_convolution_and_its_gradient_against_the_library(
    side: int, size: int, channels: int, dtype: torch.dtype
) -> None:
    """More rows than the most parts take, and a gradient that is expanded; by window, one block of channels or more."""
    batch = loops.depthwise.ROWS_PER_PART * loops.depthwise.MOST_PARTS // (6 * side * side) + 2
    sites = ActiveSites(random_visible(batch, 4, 4, 6))
    x, weight = (
        torch.randn(sites.num_sites(side), channels, dtype=dtype),
        torch.randn(channels, 1, size, size, dtype=dtype),
    )
    bias, dy = torch.randn(channels, dtype=dtype), torch.randn(len(x), 1, dtype=dtype).expand(len(x), channels)
    index, shape = sites.grid_index(side), sites.grid_shape(side)
    where = sites.patch_window_index(side, size // 2), sites.raster_of_z(side)
    expected = dw._convolve_on_grid(x, weight, bias, index, shape)
    torch.testing.assert_close(loops.convolve(x, weight, bias, *where), expected)
    dx, dweight, bias_grad = loops.convolve_grad(x, dy, weight, *where)
    expected = dw._convolve_on_grid(dy, weight.flip(2, 3), None, index, shape)
    torch.testing.assert_close(dx, expected, atol=1e-4, rtol=1e-4)
    expected = dw._wgrad_by_library(x, dy, weight, index, shape)
    torch.testing.assert_close(dweight, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(bias_grad, dy.sum(0), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("side", "radius"), [(1, 0), (1, 3), (2, 1), (4, 3), (8, 2), (2, 5)])
def test_rows_of_windows_against_torch(grid: tuple[int, int, int, int], side: int, radius: int) -> None:
    """A radius wider than a patch, or than the image, too."""
    visible = random_visible(*grid)
    sites, alone = ActiveSites(visible), ActiveSites(visible)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "_loops", lambda _process: None)
        expected = alone.patch_window_index(side, radius)
    rows = loops.window_rows(sites.patch_slot(), sites.patches, radius, torch.argsort(sites.raster_of_z(side)), side)
    assert rows.dtype == expected.dtype
    assert torch.equal(rows, expected)
    assert torch.equal(sites.patch_window_index(side, radius), expected)


def test_the_ways_that_are_chosen() -> None:
    """Else the tests of the operations would compare PyTorch with itself."""
    sites = ActiveSites(random_visible(2, 4, 4, 6))
    for side in (1, 2, 4, 8):
        assert dw._choose_ways(torch.device("cpu"), True, sites, side, 3) == ("loops", "loops")
        without = dw._choose_ways(torch.device("cpu"), False, sites, side, 3)
        assert without == ("grid" if side < 4 else "patch", "image" if side == 1 else "patch")
        assert dw._choose_ways(torch.device("cuda"), False, sites, side, 3) == ("grid", "library")
    with pytest.MonkeyPatch.context() as patch:
        called = []
        for name in ("convolve", "convolve_grad"):
            run = getattr(loops, name)
            patch.setattr(loops, name, lambda *args, run=run, name=name: called.append(name) or run(*args))
        x = torch.randn(sites.num_sites(2), 3, requires_grad=True)
        weight = torch.randn(3, 1, 7, 7, requires_grad=True)
        depthwise_conv(x, weight, None, sites, 2).sum().backward()
        assert called == ["convolve", "convolve_grad"]
        (to_x,) = torch.autograd.grad(depthwise_conv(x, weight.detach(), None, sites, 2).sum(), x)
        assert called[2:] == ["convolve", "convolve"]  # no weight, no gradient to it
    torch.testing.assert_close(to_x, x.grad)


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    """Bit for bit: a run may go on with others."""
    sites = ActiveSites(random_visible(4, 5, 5, 19))  # 304 sites an image: several parts
    x, weight, bias = torch.randn(sites.num_sites(4), 100), torch.randn(100, 1, 7, 7), torch.randn(100)  # 3 blocks
    small, wide, images = x[: sites.num_sites(2)], x.view(4, -1, 100), torch.randn(4, 3, 40, 40)
    by_window = sites.patch_window_index(4, 3), sites.raster_of_z(4)
    by_site = sites.patch_window_index(2, 3), sites.raster_of_z(2)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(
            (
                loops.convolve(x, weight, None, *by_window), *loops.convolve_grad(x, x, weight, *by_window),
                loops.convolve(small, weight, bias, *by_site), *loops.convolve_grad(small, small, weight, *by_site),
                *loops.gelu_grn(wide, bias, bias, bias, 1e-6),
                *loops.gelu_grn_grad_(wide.clone(), wide, bias, bias, wide[:, 0], 1e-6),
                *loops.gelu_and_scale(wide, bias, bias, 1e-6),
                *loops.gelu_grn_grad_(wide.clone(), wide, bias, bias, wide[:, 0], 1e-6, wide[:, 1]),
                loops.stem_columns(images, sites.patches, 4, 2, sites.raster_of_z(4)),
                loops.targets(images, sites.masked_patches, 8, 1e-6),
                loops.window_rows(sites.patch_slot(), sites.patches, 3, sites.raster_of_z(4).argsort(), 4),
            )
        )  # fmt: skip
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


def test_the_mark_for_wide_vectors_reaches_the_compiler_and_no_other_function() -> None:
    """Also out of a parallel loop, which Numba makes a function of its own."""

    def unmarked(x):  # type: ignore[no-untyped-def]
        for i in numba.prange(len(x)):
            x[i] += 1

    def marked(x):  # type: ignore[no-untyped-def]
        for i in numba.prange(len(x)):
            loops.runtime.wide_vectors()
            x[i] += 1

    for parallel in (False, True):
        for function, there in ((unmarked, False), (marked, True)):
            compiled_function = numba.njit(function, parallel=parallel)
            x = np.zeros(3, np.float32)
            compiled_function(x)
            assert (x == 1).all()
            assert ('"prefer-vector-width"="512"' in "".join(compiled_function.inspect_llvm().values())) == there


def test_they_are_for_wide_floats_on_a_cpu_outside_torch_compile() -> None:
    assert compiled.loops_for(torch.zeros(1)) is loops
    assert compiled.loops_for(torch.zeros(1, dtype=torch.bfloat16)) is None
    assert compiled.loops_for(torch.zeros(1, device="meta")) is None
    assert compiled.loops_for(torch.zeros(1), torch.zeros(1, dtype=torch.float64)) is None
    with FakeTensorMode():
        assert compiled.loops_for(torch.zeros(1)) is None
    seen = []

    def inside(x: Tensor) -> Tensor:
        seen.append(compiled.loops_for(x))
        return x + 1

    torch.compile(inside, backend="eager")(torch.zeros(1))
    assert seen == [None]


@pytest.mark.parametrize(
    "how",
    [
        "import os; os.environ['FCMAE_NUMBA'] = '0'",
        "import os; os.environ['NUMBA_THREADING_LAYER'] = 'none such'",
        "import os; os.environ['NUMBA_DISABLE_JIT'] = '1'",
        "import sys; sys.modules['numba'] = None",
    ],
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
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_forked_process_does_without() -> None:
    """Numba ends a process that runs its threads after a fork."""
    code = """
import os, torch
from fcmae.sparse import ActiveSites, compiled, depthwise_conv
sites = ActiveSites.full(1, 2, 2)
run = lambda: depthwise_conv(torch.ones(4, 1), torch.ones(1, 1, 3, 3), None, sites, 1).sum() == 16
assert run() and compiled.loops_for(torch.zeros(1)) is not None
child = os.fork()
if child == 0:
    torch.set_num_threads(1)  # PyTorch's own threads do not survive it either
    os._exit(0 if compiled.loops_for(torch.zeros(1)) is None and run() else 3)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)

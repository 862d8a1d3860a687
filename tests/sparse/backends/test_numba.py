"""The CPU kernels: what each computes, that threads do not matter, and when PyTorch serves instead."""

import subprocess
import sys
from typing import Any

import numba
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fcmae.sparse.backends import numba as kernels
from fcmae.sparse.backends import pytorch
from fcmae.sparse.backends.numba import depthwise, gelu, gelu_grn, patches, runtime, windows
from fcmae.sparse.backends.numba.guards import DTYPES, can_run
from fcmae.sparse.backends.operations import MlpWeights
from fcmae.sparse.grid import densify
from fcmae.sparse.sites import ActiveSites
from tests.conftest import GRIDS, random_visible

PART = gelu_grn.SITES_PER_PART
SITES = (1, PART, PART + 1, 3 * PART - 7)


@pytest.mark.parametrize("dtype", DTYPES)
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
    y, norms, _ = gelu_grn.gelu_grn(*low, 1e-6)
    near = {"atol": 1e-4, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 1e-10, "rtol": 1e-10}
    torch.testing.assert_close(y.double(), expected, **near | {"atol": min(near["atol"], 1e-5)})
    dy = torch.randn_like(y)
    wanted = torch.autograd.grad(expected, high, dy.double())
    dh, *grads = gelu_grn.gelu_grn_grad_(dy, low[0], low[1], low[2], norms, 1e-6)
    assert dh.data_ptr() == dy.data_ptr()
    for got, want in zip((dh, *grads), wanted[:3], strict=True):
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), want, **near)


@pytest.mark.parametrize("sites", SITES)
def test_the_halves_that_leave_grn_to_the_weights(sites: int) -> None:
    """Scaled afterwards, and before the way back, they give what the whole gives."""
    h, dy, bias, gamma, beta = *torch.randn(2, 3, sites, 5), *torch.randn(3, 5)
    whole, norms, _ = gelu_grn.gelu_grn(h, bias, gamma, beta, 1e-6)
    g, same_norms, scale = gelu_grn.gelu_grn(h, bias, gamma, None, 1e-6)
    assert torch.equal(same_norms, norms)
    torch.testing.assert_close(g * scale[:, None] + beta, whole, atol=1e-6, rtol=1e-6)
    dy_g = (dy * g).sum(1)
    dh, dbias, dgamma = gelu_grn.gelu_grn_grad_(dy * scale[:, None], h, bias, gamma, norms, 1e-6, dy_g)
    expected = gelu_grn.gelu_grn_grad_(dy, h, bias, gamma, norms, 1e-6)
    for got, want in zip((dh, dbias, dgamma), expected, strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [0, *SITES])
def test_gelu_alone_with_its_gradients(rows: int, dtype: torch.dtype) -> None:
    h, bias, dy = (t.to(dtype) for t in (torch.randn(rows, 5), torch.randn(5), torch.randn(rows, 5)))
    high = [t.double().requires_grad_() for t in (h, bias)]
    expected = F.gelu(high[0] + high[1])
    near = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 1e-10, "rtol": 1e-10}
    torch.testing.assert_close(gelu.gelu(h, bias).double(), expected, **near)
    wanted = torch.autograd.grad(expected, high, dy.double())
    dh, db = gelu.gelu_grad_(dy, h, bias)
    assert dh.data_ptr() == dy.data_ptr()
    for got, want in zip((dh, db), wanted, strict=True):
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), want, **near)
    wide = torch.ones(()).expand(rows + 2, 5)
    with pytest.raises(ValueError, match="must be contiguous"):
        gelu.gelu_grad_(wide, wide, bias)


def test_gelu_is_exact_to_the_precision_of_a_float32() -> None:
    """From where it is 0 in float32 to where it is x; the formula's own error is 1.5e-7."""
    x = torch.cat([torch.linspace(-20, 20, 40_001), torch.tensor([0.0, -0.0, 1e-30, -1e-38, 1e18, -1e4])])
    wide = x.double().requires_grad_()
    expected = F.gelu(wide)
    (slope,) = torch.autograd.grad(expected.sum(), wide)
    h, zero = x.view(1, -1, 1), torch.zeros(1)
    y, norms, _ = gelu_grn.gelu_grn(h, zero, zero, zero, 1e-6)  # γ = β = 0: GELU alone
    assert ((y.flatten() - expected).abs() / expected.abs().clamp_min(1)).max() < 3e-7
    assert (y.flatten()[x < -14] == 0).all()  # numbers below the smallest normal one would slow what follows
    dh, *_ = gelu_grn.gelu_grn_grad_(torch.ones_like(h), h, zero, zero, norms, 1e-6)
    assert (dh.flatten()[:-2] - slope[:-2]).abs().max() < 1e-6
    assert dh.flatten()[-2:].tolist() == [1, 0]


def test_what_is_not_finite_is_not_hidden() -> None:
    h, bias, gamma, beta = torch.randn(3, 5, 4), *torch.randn(3, 4)
    h[0, 2, 1], h[1, 2, 1] = torch.nan, torch.inf
    y, norms, _ = gelu_grn.gelu_grn(h, bias, gamma, beta, 1e-6)
    assert norms[0, 1].isnan()
    assert norms[1, 1].isinf()
    assert y[:2].isnan().any(2).any(1).all()
    assert y[2].isfinite().all()
    alone = gelu.gelu(h[0], bias)
    assert alone[2, 1].isnan()
    assert int(alone.isnan().sum()) == 1
    dh, dbias, *_ = gelu_grn.gelu_grn_grad_(torch.randn_like(h), h, bias, gamma, norms, 1e-6)
    assert dh[0].isnan().any()
    assert dh[2].isfinite().all()
    assert dbias.isnan().any()


def test_tensors_that_are_not_contiguous() -> None:
    h, one = torch.randn(5, 3, 9).permute(1, 2, 0), torch.ones(1).expand(5)
    dense_h, dense_one = h.contiguous(), one.contiguous()
    y, norms, _ = gelu_grn.gelu_grn(dense_h, dense_one, dense_one, dense_one, 1e-6)
    assert torch.equal(gelu_grn.gelu_grn(h, one, one, one, 1e-6)[0], y)
    expected = gelu_grn.gelu_grn_grad_(torch.ones_like(y), dense_h, dense_one, dense_one, norms, 1e-6)
    got = gelu_grn.gelu_grn_grad_(torch.ones_like(y), h, one, one, norms.t().contiguous().t(), 1e-6)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    with pytest.raises(ValueError, match="must be contiguous"):
        gelu_grn.gelu_grn_grad_(torch.ones(()).expand_as(h), h, one, one, norms, 1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("side", "size", "channels"),
    [(1, 5, 3), (2, 5, 3), (4, 5, 3), (8, 5, 3), (2, 7, 3), (4, 7, 3), (8, 7, 3), (4, 7, 48), (4, 7, 53), (16, 7, 100)],
)
def test_convolution_and_its_gradients_against_pytorch(side: int, size: int, channels: int, dtype: torch.dtype) -> None:
    """More rows than the most parts take, and a gradient that is expanded; by window, one block of channels or more."""
    batch = depthwise.ROWS_PER_PART * depthwise.MOST_PARTS // (6 * side * side) + 2
    sites = ActiveSites(random_visible(batch, 4, 4, 6))
    tensors = [
        torch.randn(shape, dtype=dtype, requires_grad=True)
        for shape in ((sites.num_sites(side), channels), (channels, 1, size, size), (channels,))
    ]
    got, expected = (ops.depthwise_conv(*tensors, sites, side) for ops in (kernels, pytorch))
    torch.testing.assert_close(got, expected)
    dy = torch.randn(len(got), 1, dtype=dtype).expand(len(got), channels)
    for one, two in zip(*(torch.autograd.grad(y, tensors, dy) for y in (got, expected)), strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("side", "radius"), [(1, 0), (1, 3), (2, 1), (4, 3), (8, 2), (2, 5)])
def test_windows_read_the_grid_around_each_patch(grid: tuple[int, int, int, int], side: int, radius: int) -> None:
    """x[window] = the zero-padded masked grid cut around each patch, for a radius wider than the patch or image too."""
    sites = ActiveSites(random_visible(*grid))
    x = torch.arange(1.0, sites.num_sites(side) + 1).unsqueeze(1)
    dense = F.pad(densify(x, sites, side)[:, 0], (radius,) * 4)
    index = windows.window_index(sites, side, radius)
    assert windows.window_index(sites, side, radius) is index
    assert windows.window_index(sites, side, radius + 1) is not index
    found = torch.cat([x, torch.zeros(1, 1)])[index][..., 0]
    n = 0
    for image in range(sites.batch_size):
        for patch in sites.patches[image].tolist():
            top, left = patch // sites.width * side, patch % sites.width * side
            expected = dense[image, top : top + side + 2 * radius, left : left + side + 2 * radius]
            assert torch.equal(found[n], expected.flatten())
            n += 1


def test_the_kernels_run_where_they_can() -> None:
    """Otherwise the tests of the operations would compare PyTorch with itself."""
    sites = ActiveSites(random_visible(2, 4, 4, 6))
    launched: list[str] = []

    def note_and_launch(kernel: Any, *args: Any) -> None:
        launched.append(kernel.__name__)
        runtime.launch(kernel, *args)

    with pytest.MonkeyPatch.context() as patch:
        for module in (depthwise, gelu, gelu_grn, patches):
            patch.setattr(module, "launch", note_and_launch)
        for side, by in ((1, "site"), (2, "site"), (4, "window"), (8, "window")):
            x = torch.randn(sites.num_sites(side), 3, requires_grad=True)
            kernels.depthwise_conv(x, torch.randn(3, 1, 7, 7), None, sites, side).sum().backward()
            assert launched == [f"convolve_by_{by}", f"convolve_grad_by_{by}"]
            launched.clear()
        w = MlpWeights(*(torch.randn(s) for s in ((8, 4), (8,), (8,), (8,), (4, 8), (4,))))
        kernels.mlp(torch.randn(6, 4, requires_grad=True), w, 2).sum().backward()
        assert launched == ["_gelu_grn", "_gelu_grn_grad"]
        launched.clear()
        without = w._replace(grn_weight=None, grn_bias=None)
        kernels.mlp(torch.randn(6, 4, requires_grad=True), without, 2).sum().backward()
        assert launched == ["_gelu", "_gelu_grad"]
        launched.clear()
        kernels.patch_pixels(torch.randn(2, 3, 32, 32), sites, 8, 1e-6)
        assert launched == ["_patch_pixels"]


@pytest.mark.usefixtures("every_core")
def test_results_do_not_depend_on_the_number_of_threads() -> None:
    """Bit for bit: a run may go on with others."""
    sites = ActiveSites(random_visible(4, 5, 5, 19))  # 304 sites an image: several parts
    x, weight, bias = torch.randn(sites.num_sites(4), 100), torch.randn(100, 1, 7, 7), torch.randn(100)  # 3 blocks
    wide, images = x.view(4, -1, 100), torch.randn(4, 3, 40, 40)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        of_threads = [
            gelu.gelu(x, bias),
            *gelu.gelu_grad_(x.clone(), x, bias),
            *gelu_grn.gelu_grn(wide, bias, bias, bias, 1e-6),
            *gelu_grn.gelu_grn_grad_(wide.clone(), wide, bias, bias, wide[:, 0], 1e-6),
            *gelu_grn.gelu_grn(wide, bias, bias, None, 1e-6),
            *gelu_grn.gelu_grn_grad_(wide.clone(), wide, bias, bias, wide[:, 0], 1e-6, wide[:, 1]),
            kernels.patch_pixels(images, sites.complement(), 8, 1e-6),
            windows.window_index(ActiveSites(sites.visible), 4, 3),
        ]
        for side in (4, 2):  # by window, by site
            tensors = [t.clone().requires_grad_() for t in (x[: sites.num_sites(side)], weight, bias)]
            y = kernels.depthwise_conv(*tensors, sites, side)
            of_threads += [y, *torch.autograd.grad(y, tensors, y.detach())]
        results.append(of_threads)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


def test_the_mark_for_wide_vectors_reaches_the_compiler_and_no_other_function() -> None:
    """Also out of a parallel loop, which Numba makes a function of its own."""

    def unmarked(x):  # type: ignore[no-untyped-def]
        for i in numba.prange(len(x)):
            x[i] += 1

    def marked(x):  # type: ignore[no-untyped-def]
        for i in numba.prange(len(x)):
            runtime.wide_vectors()
            x[i] += 1

    for parallel in (False, True):
        for function, there in ((unmarked, False), (marked, True)):
            compiled_function = numba.njit(function, parallel=parallel)
            x = np.zeros(3, np.float32)
            compiled_function(x)
            assert (x == 1).all()
            assert ('"prefer-vector-width"="512"' in "".join(compiled_function.inspect_llvm().values())) == there


def test_they_are_for_wide_floats_on_a_cpu_outside_torch_compile_and_autocast() -> None:
    x = torch.zeros(1)
    assert can_run(x, None, torch.nn.Parameter(x))
    assert not can_run(x.bfloat16())
    assert not can_run(torch.zeros(1, device="meta"))
    assert not can_run(x, x.double())
    with FakeTensorMode():
        assert not can_run(torch.zeros(1))
    with torch.autocast("cpu", torch.bfloat16):
        assert not can_run(x)
        assert can_run(x, autocasts=False)
    seen = []

    def inside(x: Tensor) -> Tensor:
        seen.append(can_run(x))
        return x + 1

    torch.compile(inside, backend="eager")(x)
    assert seen == [False]


@pytest.mark.parametrize(
    "how",
    [
        "import os; os.environ['NUMBA_THREADING_LAYER'] = 'none such'",
        "import os; os.environ['NUMBA_DISABLE_JIT'] = '1'",
        "import sys; sys.modules['numba'] = None",
    ],
)
def test_without_numba_auto_is_torch_and_says_so_once(how: str) -> None:
    code = f"""{how}
import fcmae
models = [fcmae.create_model('convnextv2_atto', img_size=32) for _ in range(2)]
assert all(network.ops.name == 'torch' for m in models for network in (m.encoder, m.decoder))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True, text=True)
    assert done.stderr.count("backend 'numba' needs ") == 1, done.stderr


def test_a_forked_process_does_without() -> None:
    """Numba ends a process that runs its threads after a fork."""
    code = """
import os, torch
from fcmae.sparse.backends.registry import resolve_backend
from fcmae.sparse.sites import ActiveSites
from fcmae.sparse.backends.numba.guards import can_run
sites, ops = ActiveSites.full(1, 2, 2), resolve_backend('numba')
run = lambda: ops.depthwise_conv(torch.ones(4, 1), torch.ones(1, 1, 3, 3), None, sites, 1).sum() == 16
assert run() and can_run(torch.zeros(1))
child = os.fork()
if child == 0:
    torch.set_num_threads(1)  # PyTorch's own threads do not survive it either
    os._exit(0 if not can_run(torch.zeros(1)) and run() else 3)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)

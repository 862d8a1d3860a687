"""Every backend against the oracle, forward and backward, on all grids, and what a missing one says."""

import sys

import pytest
import torch
from torch import Tensor

from fcmae.sparse import ActiveSites, BackendError, densify, gather_sites, resolve_backend
from fcmae.sparse import reference as ref
from tests.conftest import GRIDS, minkowski, random_visible
from tests.sparse.against_oracle import compare

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BACKENDS = ["grid", "triton", minkowski]


def device_for(backend: str) -> str:
    """What make minkowski builds is for the CPU."""
    return "cpu" if backend == "minkowski" else DEVICE


def randn(*shapes: tuple[int, ...], device: str = DEVICE) -> list[Tensor]:
    return [torch.randn(shape, device=device) for shape in shapes]


@pytest.mark.usefixtures("_few_programs")
@pytest.mark.parametrize("kernel", [3, 7])
@pytest.mark.parametrize("side", [1, 2, 4, 8])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_depthwise_conv(backend: str, grid: tuple[int, int, int, int], side: int, kernel: int) -> None:
    """float32: value, dgrad, wgrad and the bias's gradient; kernels are random, so a flip or a transposition shows."""
    conv = resolve_backend(backend).depthwise_conv
    visible = random_visible(*grid).to(device_for(backend))
    sites = ActiveSites(visible)
    compare(
        lambda x, w, b: conv(x, w, b, sites, side),
        lambda x, w, b: gather_sites(ref.depthwise_conv(densify(x, sites, side), w, b, visible, side), sites, side),
        [
            t.to(device_for(backend))
            for t in (torch.randn(sites.num_sites(side), 5), torch.randn(5, 1, kernel, kernel), torch.randn(5))
        ],
        torch.float32,
    )


@pytest.mark.parametrize("side", [2, 4, 8])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_downsample(backend: str, grid: tuple[int, int, int, int], side: int) -> None:
    downsample = resolve_backend(backend).downsample
    visible = random_visible(*grid).to(device_for(backend))
    sites = ActiveSites(visible)
    compare(
        lambda x, w, b: downsample(x, w, b, sites, side),
        lambda x, w, b: gather_sites(ref.downsample(densify(x, sites, side), w, b, visible, side), sites, side // 2),
        randn((sites.num_sites(side), 3), (6, 3, 2, 2), (6,), device=device_for(backend)),
        torch.float32,
    )


@pytest.mark.usefixtures("_few_programs")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["grid", "triton"])
def test_half_precision(backend: str, dtype: torch.dtype) -> None:
    conv = resolve_backend(backend).depthwise_conv
    visible = random_visible(2, 3, 4, 5).to(DEVICE)
    sites = ActiveSites(visible)
    compare(
        lambda x, w, b: conv(x, w, b, sites, 4),
        lambda x, w, b: gather_sites(ref.depthwise_conv(densify(x, sites, 4), w, b, visible, 4), sites, 4),
        randn((sites.num_sites(4), 5), (5, 1, 7, 7), (5,)),
        dtype,
    )


def test_triton_with_more_rows_and_channels_than_a_block() -> None:
    """Several blocks of rows and of channels, chunks of more than one block in wgrad, features not contiguous."""
    from fcmae.sparse import triton_depthwise

    visible = random_visible(3, 3, 3, 4).to(DEVICE)
    sites = ActiveSites(visible)
    rows, channels = sites.num_sites(2), 16 + 7
    assert rows == 3 * 16
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(triton_depthwise, "BLOCK_ROWS", 16)
        patch.setattr(triton_depthwise, "MAX_BLOCK_CHANNELS", 16)
        patch.setattr(triton_depthwise, "WGRAD_PROGRAMS", 27)  # two chunks, of two blocks and of one
        compare(
            lambda x, w, b: triton_depthwise.depthwise_conv(x.t().contiguous().t(), w, b, sites, 2),
            lambda x, w, b: gather_sites(ref.depthwise_conv(densify(x, sites, 2), w, b, visible, 2), sites, 2),
            [
                t.to(DEVICE)
                for t in (torch.randn(rows, channels), torch.randn(channels, 1, 3, 3), torch.randn(channels))
            ],
            torch.float32,
        )


def test_triton_operators_are_what_torch_expects_of_operators() -> None:
    """Schema, fake implementation and autograd registration, so that torch.compile may trace through them."""
    from fcmae.sparse import triton_depthwise as td

    sites = ActiveSites(random_visible(2, 2, 3, 3).to(DEVICE))
    x = torch.randn(sites.num_sites(2), 4, device=DEVICE, requires_grad=True)
    taps = torch.randn(9, 4, device=DEVICE, requires_grad=True)
    bias = torch.randn(4, device=DEVICE, requires_grad=True)
    where = (sites.patches.flatten().int(), sites.patch_slot(), sites.num_visible, 2, 3)
    torch.library.opcheck(td._convolve_op, (x, taps, bias, *where, False))
    torch.library.opcheck(td._wgrad_op, (x.detach(), x.detach(), *where))


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
    from fcmae.sparse import triton_depthwise

    sites = ActiveSites(random_visible(1, 2, 2, 1))
    x, weight = torch.randn(sites.num_sites(2), 3), torch.randn(3, 1, 3, 3)
    with pytest.raises(ValueError, match="float64"):
        triton_depthwise.depthwise_conv(x.double(), weight.double(), None, sites, 2)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ValueError, match="the triton backend needs a GPU; take backend 'grid'"):
        triton_depthwise.depthwise_conv(x, weight, None, sites, 2)


def test_auto_is_grid() -> None:
    assert resolve_backend("auto").name == "grid"


def test_names_that_are_none() -> None:
    with pytest.raises(BackendError, match="backend must be one of auto, grid, triton, minkowski, masked, got 'cuda'"):
        resolve_backend("cuda")


@pytest.mark.parametrize(
    ("name", "needs", "module", "command"),
    [
        ("minkowski", "MinkowskiEngine", "fcmae.sparse.minkowski", "make minkowski"),
        ("triton", "triton", "fcmae.sparse.triton_depthwise", "pip install triton"),
    ],
)
def test_a_missing_backend_says_how_to_install_it(
    name: str, needs: str, module: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, needs, None)
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.delitem(sys.modules, "fcmae.sparse.triton_kernels", raising=False)
    with pytest.raises(BackendError, match=rf"backend '{name}' needs {needs}.* {command}"):
        resolve_backend(name)

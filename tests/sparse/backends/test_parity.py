"""Every backend against the oracle, forward and backward, on all grids, and what a missing one says."""

import pytest
import torch
from torch import Tensor

from fcmae.sparse import reference as ref
from fcmae.sparse.backends.registry import resolve_backend
from fcmae.sparse.grid import densify, gather_sites
from fcmae.sparse.sites import ActiveSites
from tests.conftest import BACKENDS, GRIDS, random_visible
from tests.sparse.against_oracle import compare

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def device_for(backend: str) -> str:
    """What make minkowski builds is for the CPU, and so are Numba's kernels."""
    return "cpu" if backend in ("minkowski", "numba") else DEVICE


def randn(*shapes: tuple[int, ...], device: str = DEVICE) -> list[Tensor]:
    return [torch.randn(shape, device=device) for shape in shapes]


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["torch", "triton"])
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

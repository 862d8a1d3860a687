"""Each sparse operation against the oracle in float64, values and gradients, then gradcheck, then lower precision."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from fcmae.sparse import ActiveSites, densify, depthwise_conv, downsample, gather_image_patches, gather_sites, grn
from fcmae.sparse import depthwise as depthwise_module
from fcmae.sparse import reference as ref
from tests.conftest import GRIDS, random_visible
from tests.sparse.against_oracle import TOLERANCE, compare, relative_error

pytestmark = pytest.mark.usefixtures("_loops")


def poison(x: Tensor, visible: Tensor, side: int) -> Tensor:
    """x with NaN at every masked position, so that reading one shows."""
    m = ref.upsample_mask(visible, side).bool().expand_as(x)
    return torch.where(m, x, torch.nan)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("side", [1, 2, 4])
@pytest.mark.parametrize("grid", GRIDS)
def test_depthwise_conv_is_the_masked_dense_convolution(
    grid: tuple[int, int, int, int], side: int, kernel: int, dtype: torch.dtype
) -> None:
    """rows(m · conv(m · x)) = depthwise_conv(rows(x)), also where the kernel is wider than the grid."""
    visible = random_visible(*grid)
    sites = ActiveSites(visible)
    weight, bias = torch.randn(5, 1, kernel, kernel), torch.randn(5)  # random: asymmetric, so a flip would show
    compare(
        lambda x, w, b: depthwise_conv(x, w, b, sites, side),
        lambda x, w, b: gather_sites(ref.depthwise_conv(densify(x, sites, side), w, b, visible, side), sites, side),
        [torch.randn(sites.num_sites(side), 5), weight, bias],
        dtype,
    )


@pytest.mark.parametrize("size", [5, 7])
def test_depthwise_conv_wide_patches_and_no_bias(size: int) -> None:
    visible = random_visible(2, 2, 3, 2)
    sites = ActiveSites(visible)
    compare(
        lambda x, w: depthwise_conv(x, w, None, sites, 8),
        lambda x, w: gather_sites(ref.depthwise_conv(densify(x, sites, 8), w, None, visible, 8), sites, 8),
        [torch.randn(sites.num_sites(8), 3), torch.randn(3, 1, size, size)],
        torch.float64,
    )


@pytest.mark.parametrize("side", [1, 4])
def test_all_weight_gradient_paths_agree(side: int) -> None:
    """By patch, by image and by the library's own backward (the path of other devices): one number."""
    sites = ActiveSites(random_visible(2, 3, 2, 4))
    x, dy = torch.randn(2, sites.num_sites(side), 3, dtype=torch.float64)
    weight = torch.randn(3, 1, 7, 7, dtype=torch.float64)
    grid, shape = sites.grid_index(side), sites.grid_shape(side)
    window, raster = sites.window_index(side, 3), sites.raster_index(side)
    library = depthwise_module._wgrad_by_library(x, dy, weight, grid, shape)
    torch.testing.assert_close(depthwise_module._wgrad_by_patch(x, dy, weight, window, raster), library)
    if side == 1:
        torch.testing.assert_close(depthwise_module._wgrad_by_image(x, dy, weight, grid, shape), library)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("grid", GRIDS)
def test_downsample_is_the_strided_convolution(grid: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    visible = random_visible(*grid)
    sites = ActiveSites(visible)
    compare(
        downsample,
        lambda x, w, b: gather_sites(ref.downsample(densify(x, sites, 4), w, b, visible, 4), sites, 2),
        [torch.randn(sites.num_sites(4), 3), torch.randn(6, 3, 2, 2), torch.randn(6)],
        dtype,
    )


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("grid", GRIDS)
def test_grn_is_per_image_over_active_sites(grid: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    visible = random_visible(*grid)
    sites, m = ActiveSites(visible), ref.upsample_mask(visible, 2)
    compare(
        lambda x, w, b: grn(x, w, b, sites.batch_size),
        lambda x, w, b: gather_sites(ref.grn(densify(x, sites, 2), w, b, m), sites, 2),
        [torch.randn(sites.num_sites(2), 7), torch.randn(7), torch.randn(7)],
        dtype,
    )


def test_grn_of_zeros_has_finite_gradients() -> None:
    """‖X‖ has no gradient at 0; a dead channel, and an image all of zeros, must not turn the weights into NaN."""
    x = torch.randn(2, 6, 4, dtype=torch.float64)
    x[0, :, 1] = 0
    x[1] = 0
    x = x.view(12, 4).requires_grad_()
    weight, bias = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    grads = torch.autograd.grad(grn(x, weight, bias, 2).sum(), [x])
    assert grads[0].isfinite().all()


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("side", [1, 2, 8])
@pytest.mark.parametrize("grid", GRIDS)
def test_gathered_patches_times_the_kernel_are_the_stem(
    grid: tuple[int, int, int, int], side: int, stride: int
) -> None:
    """rows · Wᵀ + b = the masked strided convolution; masked pixels hold NaN and are never read."""
    visible = random_visible(*grid)
    sites = ActiveSites(visible)
    batch, height, width = sites.grid_shape(side)
    images = torch.randn(batch, 2, height * stride, width * stride, dtype=torch.float64)
    weight, bias = torch.randn(5, 2, stride, stride, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    rows = gather_image_patches(poison(images, visible, side * stride), sites, side)
    got = torch.nn.functional.linear(rows, weight.flatten(1), bias)
    expected = gather_sites(ref.stem(images, weight, bias, visible, side), sites, side)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_the_oracle_itself_ignores_what_is_masked() -> None:
    """m · f(m · x): the reference must give the same with NaN at masked positions, or it would prove nothing."""
    visible = random_visible(2, 3, 3, 4)
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    m = ref.upsample_mask(visible, 4)
    w_dw, w_ds = torch.randn(3, 1, 7, 7, dtype=torch.float64), torch.randn(5, 3, 2, 2, dtype=torch.float64)
    gamma, beta = torch.randn(2, 3, dtype=torch.float64)
    for f in (
        lambda x: ref.depthwise_conv(x, w_dw, None, visible, 4),
        lambda x: ref.downsample(x, w_ds, None, visible, 4),
        lambda x: ref.grn(x, gamma, beta, m),
        lambda x: ref.layer_norm(x, gamma, beta, m),
    ):
        assert torch.equal(f(x), f(poison(x, visible, 4)))


@pytest.mark.parametrize("side", [1, 2])
def test_gradcheck(side: int) -> None:
    """Every operation's written-out backward is the derivative of its forward."""
    sites = ActiveSites(random_visible(2, 2, 3, 3))

    def rand(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    rows = sites.num_sites(side)
    assert gradcheck(lambda x, w, b: depthwise_conv(x, w, b, sites, side), (rand(rows, 2), rand(2, 1, 3, 3), rand(2)))
    assert gradcheck(lambda x, w, b: grn(x, w, b, 2), (rand(rows, 3), rand(3), rand(3)))
    assert gradcheck(lambda x: densify(x, sites, side), rand(rows, 2))
    assert gradcheck(lambda g: gather_sites(g, sites, side), rand(2, 2, 2 * side, 3 * side))
    assert gradcheck(lambda i: gather_image_patches(i, sites, side), rand(2, 1, 4 * side, 6 * side))
    if side == 2:
        assert gradcheck(downsample, (rand(rows, 2), rand(3, 2, 2, 2), rand(3)))


def test_non_contiguous_inputs() -> None:
    """Slices and transposes of larger tensors give the same as their copies."""
    sites = ActiveSites(random_visible(2, 3, 3, 4))
    x = torch.randn(6, sites.num_sites(2), dtype=torch.float64)[::2].t()
    w, b = torch.randn(7, 7, 1, 3, dtype=torch.float64).permute(3, 2, 0, 1), torch.randn(6, dtype=torch.float64)[::2]
    images = torch.randn(2, 24, 24, 3, dtype=torch.float64).permute(0, 3, 2, 1)
    assert not x.is_contiguous()
    assert not images.is_contiguous()
    torch.testing.assert_close(depthwise_conv(x, w, b, sites, 2), depthwise_conv(x.contiguous(), w, b, sites, 2))
    torch.testing.assert_close(grn(x, b, b, 2), grn(x.contiguous(), b, b, 2))
    kernel = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(downsample(x, kernel, None), downsample(x.contiguous(), kernel, None))
    assert torch.equal(gather_image_patches(images, sites, 4), gather_image_patches(images.contiguous(), sites, 4))
    x.requires_grad_()
    dy = torch.randn(6, sites.num_sites(2), dtype=torch.float64)[1::2].t()
    got = torch.autograd.grad(depthwise_conv(x, w, b, sites, 2), x, dy)[0]
    expected = torch.autograd.grad(depthwise_conv(x, w, b, sites, 2), x, dy.contiguous())[0]
    torch.testing.assert_close(got, expected)


def test_autocast_computes_in_its_dtype() -> None:
    sites = ActiveSites(random_visible(2, 3, 3, 4))
    x = torch.randn(sites.num_sites(2), 3, requires_grad=True)
    weight, bias = torch.randn(3, 1, 7, 7, requires_grad=True), torch.randn(3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = depthwise_conv(x, weight, bias, sites, 2)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32
    exact = depthwise_conv(x.double(), weight.double(), bias.double(), sites, 2)
    assert relative_error(y, exact) < TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: depthwise_conv(torch.randn(16, 3), torch.randn(3, 1, 4, 4), None, s, 2), "odd k"),
        (lambda s: depthwise_conv(torch.randn(16, 3), torch.randn(3, 3, 3, 3), None, s, 2), r"\[C, 1, k, k\]"),
        (
            lambda s: depthwise_conv(torch.randn(15, 3), torch.randn(3, 1, 3, 3), None, s, 2),
            r"\[16, 3\], got \[15, 3\]",
        ),
        (
            lambda s: depthwise_conv(torch.randn(16, 3), torch.randn(3, 1, 3, 3), torch.ones(1), s, 2),
            r"bias must be \[3\], got \[1\]",
        ),
        (lambda _: grn(torch.randn(16, 3), torch.ones(3), torch.ones(1), 2), r"must be \[3\], got \[3\] and \[1\]"),
        (lambda _: grn(torch.randn(16, 3), torch.ones(7), torch.ones(7), 2), r"must be \[3\], got \[7\] and \[7\]"),
        (lambda s: downsample(torch.randn(16, 3), torch.randn(4, 3, 3, 3), None), "2×2 kernel"),
        (lambda s: gather_image_patches(torch.randn(2, 3, 30, 32), s, 2), "do not fit"),
        (lambda s: gather_image_patches(torch.randn(3, 3, 32, 32), s, 2), "do not fit"),
    ],
)
def test_wrong_shapes_are_refused(call: Callable[[ActiveSites], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(ActiveSites(random_visible(2, 2, 2, 2)))

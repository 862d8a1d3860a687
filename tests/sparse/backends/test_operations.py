"""Each operation of the CPU backends against the oracle in float64: values, gradients, gradcheck, other dtypes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from fcmae.sparse import reference as ref
from fcmae.sparse.backends.operations import Backend
from fcmae.sparse.backends.pytorch import grn
from fcmae.sparse.grid import densify, gather_sites
from fcmae.sparse.sites import ActiveSites
from tests.conftest import GRIDS, random_visible
from tests.sparse.against_oracle import TOLERANCE, compare, relative_error


def poison(x: Tensor, visible: Tensor, side: int) -> Tensor:
    """x with NaN at every masked position, so that reading one shows."""
    m = ref.upsample_mask(visible, side).bool().expand_as(x)
    return torch.where(m, x, torch.nan)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("side", [1, 2, 4])
@pytest.mark.parametrize("grid", GRIDS)
def test_depthwise_conv_is_the_masked_dense_convolution(
    ops: Backend, grid: tuple[int, int, int, int], side: int, kernel: int, dtype: torch.dtype
) -> None:
    """rows(m · conv(m · x)) = depthwise_conv(rows(x)), also where the kernel is wider than the grid."""
    visible = random_visible(*grid)
    sites = ActiveSites(visible)
    weight, bias = torch.randn(5, 1, kernel, kernel), torch.randn(5)  # random: asymmetric, so a flip would show
    compare(
        lambda x, w, b: ops.depthwise_conv(x, w, b, sites, side),
        lambda x, w, b: gather_sites(ref.depthwise_conv(densify(x, sites, side), w, b, visible, side), sites, side),
        [torch.randn(sites.num_sites(side), 5), weight, bias],
        dtype,
    )


@pytest.mark.parametrize("size", [5, 7])
def test_depthwise_conv_wide_patches_and_no_bias(ops: Backend, size: int) -> None:
    visible = random_visible(2, 2, 3, 2)
    sites = ActiveSites(visible)
    compare(
        lambda x, w: ops.depthwise_conv(x, w, None, sites, 8),
        lambda x, w: gather_sites(ref.depthwise_conv(densify(x, sites, 8), w, None, visible, 8), sites, 8),
        [torch.randn(sites.num_sites(8), 3), torch.randn(3, 1, size, size)],
        torch.float64,
    )


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("grid", GRIDS)
def test_downsample_is_the_strided_convolution(
    ops: Backend, grid: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    visible = random_visible(*grid)
    sites = ActiveSites(visible)
    compare(
        lambda x, w, b: ops.downsample(x, w, b, sites, 4),
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
def test_stem_rows_times_the_kernel_are_the_stem(
    ops: Backend, grid: tuple[int, int, int, int], side: int, stride: int
) -> None:
    """rows · Wᵀ + b = the masked strided convolution; masked pixels hold NaN and are never read."""
    visible = random_visible(*grid)
    sites = ActiveSites(visible)
    batch, height, width = sites.grid_shape(side)
    images = torch.randn(batch, 2, height * stride, width * stride, dtype=torch.float64)
    weight, bias = torch.randn(5, 2, stride, stride, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    rows = ops.stem_rows(poison(images, visible, side * stride), sites, side, stride)
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
def test_gradcheck(ops: Backend, side: int) -> None:
    """Every operation's written-out backward is the derivative of its forward."""
    sites = ActiveSites(random_visible(2, 2, 3, 3))

    def rand(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    rows = sites.num_sites(side)
    assert gradcheck(
        lambda x, w, b: ops.depthwise_conv(x, w, b, sites, side), (rand(rows, 2), rand(2, 1, 3, 3), rand(2))
    )
    assert gradcheck(lambda x, w, b: grn(x, w, b, 2), (rand(rows, 3), rand(3), rand(3)))
    assert gradcheck(lambda x: densify(x, sites, side), rand(rows, 2))
    assert gradcheck(lambda g: gather_sites(g, sites, side), rand(2, 2, 2 * side, 3 * side))
    assert gradcheck(lambda i: ops.stem_rows(i, sites, side, 2), rand(2, 1, 4 * side, 6 * side))
    if side == 2:
        tensors = rand(rows, 2), rand(3, 2, 2, 2), rand(3)
        assert gradcheck(lambda x, w, b: ops.downsample(x, w, b, sites, side), tensors)


def test_non_contiguous_inputs(ops: Backend) -> None:
    """Slices and transposes of larger tensors give the same as their copies."""
    sites = ActiveSites(random_visible(2, 3, 3, 4))
    x = torch.randn(6, sites.num_sites(2), dtype=torch.float64)[::2].t()
    w, b = torch.randn(7, 7, 1, 3, dtype=torch.float64).permute(3, 2, 0, 1), torch.randn(6, dtype=torch.float64)[::2]
    images = torch.randn(2, 24, 24, 3, dtype=torch.float64).permute(0, 3, 2, 1)
    assert not x.is_contiguous()
    assert not images.is_contiguous()
    torch.testing.assert_close(
        ops.depthwise_conv(x, w, b, sites, 2), ops.depthwise_conv(x.contiguous(), w, b, sites, 2)
    )
    torch.testing.assert_close(grn(x, b, b, 2), grn(x.contiguous(), b, b, 2))
    kernel = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    expected = ops.downsample(x.contiguous(), kernel, None, sites, 2)
    torch.testing.assert_close(ops.downsample(x, kernel, None, sites, 2), expected)
    assert torch.equal(ops.stem_rows(images, sites, 4, 2), ops.stem_rows(images.contiguous(), sites, 4, 2))
    x.requires_grad_()
    dy = torch.randn(6, sites.num_sites(2), dtype=torch.float64)[1::2].t()
    got = torch.autograd.grad(ops.depthwise_conv(x, w, b, sites, 2), x, dy)[0]
    expected = torch.autograd.grad(ops.depthwise_conv(x, w, b, sites, 2), x, dy.contiguous())[0]
    torch.testing.assert_close(got, expected)


def test_autocast_computes_in_its_dtype(ops: Backend) -> None:
    sites = ActiveSites(random_visible(2, 3, 3, 4))
    x = torch.randn(sites.num_sites(2), 3, requires_grad=True)
    weight, bias = torch.randn(3, 1, 7, 7, requires_grad=True), torch.randn(3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = ops.depthwise_conv(x, weight, bias, sites, 2)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32
    exact = ops.depthwise_conv(x.double(), weight.double(), bias.double(), sites, 2)
    assert relative_error(y, exact) < TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("channels", [8, 40, 530])
def test_layer_norm_is_over_the_channels_of_a_site(ops: Backend, channels: int, dtype: torch.dtype) -> None:
    """Also of a row that is constant."""
    visible = random_visible(2, 2, 3, 3)
    sites, m = ActiveSites(visible), ref.upsample_mask(visible, 2)
    x = 3 + torch.randn(sites.num_sites(2), channels)
    x[0] = 1
    weight, bias = torch.randn(2, channels)
    compare(
        lambda x, w, b: ops.layer_norm(x, w, b, 1e-2),
        lambda x, w, b: gather_sites(ref.layer_norm(densify(x, sites, 2), w, b, m, 1e-2), sites, 2),
        [x, weight, bias],
        dtype,
    )


@pytest.mark.parametrize("norm_eps", [1e-6, None])
@pytest.mark.parametrize(("channels", "dtype"), [(3, torch.float32), (1, torch.float64), (5, torch.float64)])
def test_patch_pixels_are_the_patches_of_the_image(
    ops: Backend, channels: int, dtype: torch.dtype, norm_eps: float | None
) -> None:
    """Cut out in a loop, (y, x, channel); from a view, too, and with a gradient to the pixels."""
    visible = random_visible(2, 3, 4, 5)
    images = (5 + 2 * torch.randn(2, 24, 32, channels, dtype=dtype)).permute(0, 3, 1, 2)
    rows = []
    for image, mask in zip(images, visible, strict=True):
        for y, x in mask.nonzero().tolist():
            patch = image[:, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8].permute(1, 2, 0).flatten()
            rows.append(patch if norm_eps is None else (patch - patch.mean()) / (patch.var() + norm_eps).sqrt())
    sites = ActiveSites(visible)
    torch.testing.assert_close(ops.patch_pixels(images, sites, 8, norm_eps), torch.stack(rows))
    with_gradient = ops.patch_pixels(images.requires_grad_(), sites, 8, norm_eps)
    torch.testing.assert_close(with_gradient, torch.stack(rows))
    assert with_gradient.requires_grad
    assert ops.patch_pixels(images, ActiveSites.full(2, 3, 4).complement(), 8, norm_eps).shape == (0, 64 * channels)
    for wrong in (images[:1], images[..., 1:], images[0]):
        with pytest.raises(ValueError, match=r"do not fit visible \[2, 3, 4\].* they must be \[2, C, 24, 32\]"):
            ops.patch_pixels(wrong, sites, 8, norm_eps)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda ops, s: ops.depthwise_conv(torch.randn(16, 3), torch.randn(3, 1, 4, 4), None, s, 2), "odd k"),
        (lambda ops, s: ops.depthwise_conv(torch.randn(16, 3), torch.randn(3, 3, 3, 3), None, s, 2), r"\[C, 1, k, k\]"),
        (
            lambda ops, s: ops.depthwise_conv(torch.randn(15, 3), torch.randn(3, 1, 3, 3), None, s, 2),
            r"\[16, 3\], got \[15, 3\]",
        ),
        (
            lambda ops, s: ops.depthwise_conv(torch.randn(16, 3), torch.randn(3, 1, 3, 3), torch.ones(1), s, 2),
            r"bias must be \[3\], got \[1\]",
        ),
        (
            lambda _ops, _sites: grn(torch.randn(16, 3), torch.ones(3), torch.ones(1), 2),
            r"must be \[3\], got \[3\] and \[1\]",
        ),
        (
            lambda _ops, _sites: grn(torch.randn(16, 3), torch.ones(7), torch.ones(7), 2),
            r"must be \[3\], got \[7\] and \[7\]",
        ),
        (lambda ops, s: ops.downsample(torch.randn(16, 3), torch.randn(4, 3, 3, 3), None, s, 2), "2×2 kernel"),
        (lambda ops, s: ops.stem_rows(torch.randn(2, 3, 30, 32), s, 2, 8), "do not fit"),
        (lambda ops, s: ops.stem_rows(torch.randn(3, 3, 32, 32), s, 2, 8), "do not fit"),
    ],
)
def test_wrong_shapes_are_refused(ops: Backend, call: Callable[[Backend, ActiveSites], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(ops, ActiveSites(random_visible(2, 2, 2, 2)))

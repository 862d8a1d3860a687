"""Cosine distance of channels against the double loop, and what it must be whatever the features are."""

import math

import pytest
import torch
from einops import rearrange
from torch import Tensor

from fcmae.analysis.distance import as_positions, channel_statistics, cosine_distance, effective_ranks


def double_loop(x_MC: Tensor) -> float:
    """1/C² Σ_i Σ_j (1 − cos(X_i, X_j)) / 2, with the module's rule for dead channels, of one image."""
    total, channels = 0.0, x_MC.shape[1]
    for i in range(channels):
        for j in range(channels):
            a, b = x_MC[:, i], x_MC[:, j]
            dead = int(a.norm() == 0) + int(b.norm() == 0)
            cosine = float(a @ b / (a.norm() * b.norm())) if dead == 0 else float(dead == 2)
            total += (1 - cosine) / 2
    return total / channels**2


def features(*shape: int) -> Tensor:
    """float64 with means, scales and signs of all kinds in the last axis."""
    return torch.randn(*shape, dtype=torch.float64) * torch.randn(shape[-1]).exp() + torch.randn(shape[-1])


@pytest.mark.parametrize("shape", [(2, 5, 3, 7), (1, 1, 1, 4), (3, 4, 4, 1), (2, 2, 2, 40)])
@pytest.mark.parametrize("dead", [0, 1, 3])
def test_it_is_the_double_loop_to_1e_12_in_every_layout(shape: tuple[int, int, int, int], dead: int) -> None:
    x_BHWC = features(*shape)
    x_BHWC[..., :dead] = 0
    expected = torch.tensor([double_loop(x.flatten(0, 1)) for x in x_BHWC], dtype=torch.float64)
    tokens, grid_first = x_BHWC.flatten(1, 2), rearrange(x_BHWC, "b h w c -> b c h w")
    for got in (
        cosine_distance(x_BHWC),
        cosine_distance(tokens),
        cosine_distance(tokens.flatten(0, 1), batch_size=shape[0]),
        cosine_distance(grid_first, channels="first"),
        cosine_distance(grid_first.contiguous(), channels="first"),
        cosine_distance(tokens.mT, channels="first"),
    ):
        assert got.dtype == torch.float64
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-6), (torch.float16, 1e-6)])
def test_narrow_types_are_computed_in_float32(dtype: torch.dtype, tolerance: float) -> None:
    """Also under autocast, which would take the matrix-vector product in bfloat16: only the input is rounded."""
    x = (features(2, 100, 30) / 10).to(dtype)
    expected = cosine_distance(x.double())
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            got = cosine_distance(x)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), expected, rtol=0, atol=tolerance)


def test_identical_channels_are_at_distance_0() -> None:
    one = features(2, 50, 1)
    torch.testing.assert_close(cosine_distance(one.expand(2, 50, 9)), torch.zeros(2).double(), rtol=0, atol=1e-14)
    assert (cosine_distance(one.float().expand(2, 50, 9)) <= 1e-6).all()
    assert cosine_distance(torch.zeros(1, 50, 9)).item() == 0  # all dead: collapsed as far as can be


def test_opposite_and_orthogonal_channels() -> None:
    """Halves of opposite sign are as far apart as can be on the mean, 1/2; C orthogonal ones (1 − 1/C) / 2."""
    one = features(1, 50, 1)
    assert cosine_distance(torch.cat([one, -one], dim=2)).item() == pytest.approx(0.5, abs=1e-14)
    assert cosine_distance(torch.eye(8, dtype=torch.float64)[None]).item() == pytest.approx((1 - 1 / 8) / 2, abs=1e-14)


def test_independent_channels_of_zero_mean_are_in_expectation_like_orthogonal_ones() -> None:
    images, channels = 4000, 12
    d = cosine_distance(torch.randn(images, 20, channels, dtype=torch.float64))
    error = d.std() / math.sqrt(images)
    assert error < 5e-4
    assert abs(d.mean() - (1 - 1 / channels) / 2) < 4 * error


def test_order_and_positive_scale_of_channels_do_not_matter() -> None:
    x = features(2, 30, 16).float()
    d = cosine_distance(x)
    powers = 2.0 ** torch.randint(-40, 40, (16,))
    arbitrary = torch.randn(16).mul(3).exp()
    torch.testing.assert_close(cosine_distance(x[..., torch.randperm(16)]), d, rtol=0, atol=1e-6)
    torch.testing.assert_close(cosine_distance(x * powers), d, rtol=0, atol=1e-7)
    torch.testing.assert_close(cosine_distance(x * arbitrary), d, rtol=0, atol=1e-6)
    torch.testing.assert_close(cosine_distance(x[:, torch.randperm(30)]), d, rtol=0, atol=1e-6)
    flipped = x * torch.where(torch.arange(16) < 8, -1, 1)
    assert not torch.allclose(cosine_distance(flipped), d, atol=1e-3)  # a negative one does


@pytest.mark.parametrize("power", [-30, -20, 20, 30])
@pytest.mark.parametrize("whole", [True, False])
def test_scales_whose_squares_leave_float32_do_not_matter(power: int, whole: bool) -> None:
    """Neither of all channels nor of some; channel 3 is zero, and stays dead."""
    x = features(2, 30, 8).float()
    x[..., 3] = 0
    scale = torch.full((8,), 10.0**power) if whole else torch.tensor([1, 10.0**power, 1, 1, 10.0**power, 1, 1, 1])
    found, expected = channel_statistics(x * scale), channel_statistics(x)
    torch.testing.assert_close(found.distance, expected.distance, rtol=0, atol=1e-6)
    torch.testing.assert_close(effective_ranks(x * scale), effective_ranks(x), rtol=1e-3, atol=0)
    if whole:
        assert torch.equal(found.dead, expected.dead)
        assert torch.equal(found.saturated, expected.saturated)
        assert found.dead.tolist() == [[channel == 3 for channel in range(8)]] * 2
    else:  # the others are nothing beside the large ones, the small ones nothing beside the others
        large = (scale > 1) if power > 0 else (scale == 1) & (torch.arange(8) != 3)
        assert torch.equal(found.dead, ~large.expand(2, -1))


def test_channels_that_die_lower_the_distance() -> None:
    x = torch.eye(16, dtype=torch.float64)[None]
    distances = [cosine_distance(x * (torch.arange(16) >= dead)).item() for dead in range(1, 17)]
    assert distances == sorted(distances, reverse=True)
    assert len(set(distances)) == 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dead_and_saturated_channels_are_counted(dtype: torch.dtype) -> None:
    """Channels: 0 zero; 1 a hundredth and less of the layer's RMS; 2 constant; 3 nearly; 4 and 5 alive."""
    wave = torch.linspace(0, 20, 200, dtype=dtype).sin()
    x = torch.stack([0 * wave, 1e-3 * wave, 0 * wave + 2, 2 + 0.1 * wave, 2 + wave, wave], dim=1)
    found = channel_statistics(torch.stack([x, 1000 * x]))
    for image in range(2):  # shares of the image's own RMS: scale does not matter
        assert found.dead[image].tolist() == [True, True, False, False, False, False]
        assert found.saturated[image].tolist() == [False, False, True, True, False, False]


def test_dead_is_measured_against_the_image_not_the_batch() -> None:
    x = torch.randn(2, 50, 6)
    x[1] *= 1e-4
    assert not channel_statistics(x).dead.any()


def test_features_that_are_not_finite_give_nan_not_a_number() -> None:
    for bad in (math.nan, math.inf):
        x = torch.randn(2, 10, 4)
        x[1, 3, 2] = bad
        assert cosine_distance(x).isnan().tolist() == [False, True]


@pytest.mark.parametrize("shape", [(2, 30, 8), (2, 8, 30)])
def test_effective_rank_is_exp_of_the_entropy_of_singular_values(shape: tuple[int, int, int]) -> None:
    x = features(*shape)
    singular = torch.linalg.svdvals(x / x.norm(dim=1, keepdim=True))
    share = singular / singular.sum(1, keepdim=True)
    expected = (-(share * share.log()).sum(1)).exp()
    torch.testing.assert_close(effective_ranks(x), expected, rtol=1e-6, atol=0)
    with_dead = torch.cat([x, torch.zeros(2, shape[1], 5)], dim=2)
    torch.testing.assert_close(effective_ranks(with_dead), expected, rtol=1e-6, atol=0)


def test_effective_rank_of_simple_cases() -> None:
    assert effective_ranks(torch.eye(6, dtype=torch.float64)[None]).item() == pytest.approx(6)
    same = torch.randn(1, 40, 1, dtype=torch.float64).expand(1, 40, 6)
    assert effective_ranks(same).item() == pytest.approx(1, abs=1e-5)
    assert effective_ranks(torch.zeros(1, 4, 6)).item() == 0


def test_no_copy_is_made_of_any_layout() -> None:
    grid, tokens, sites = torch.randn(2, 5, 3, 4), torch.randn(2, 7, 4), torch.randn(6, 4)
    for x, got in (
        (grid, as_positions(grid, "first")),
        (grid, as_positions(grid)),
        (tokens, as_positions(tokens)),
        (sites, as_positions(sites, batch_size=2)),
    ):
        assert got.data_ptr() == x.data_ptr()


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        (torch.randn(4, 3), {}, r"3 axes .* or 4 .*\[4, 3\]; a site matrix needs batch_size"),
        (torch.randn(5, 3), {"batch_size": 2}, r"must be a site matrix \[2·M, C\], got \[5, 3\]"),
        (torch.randn(2, 5, 3), {"batch_size": 2}, r"site matrix .*got \[2, 5, 3\]"),
        (torch.randn(2, 5, 3), {"channels": "middle"}, "'last' or 'first', got 'middle'"),
        (torch.ones(2, 5, 3, dtype=torch.int64), {}, "floating-point numbers, got torch.int64"),
        (torch.randn(2, 0, 3), {}, r"empty: \[2, 0, 3\]"),
    ],
)
def test_wrong_features_are_named(features: Tensor, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cosine_distance(features, **options)

"""Thinned curves keep what a viewer looks for: the shape, the spikes, the gaps."""

import numpy as np
import pytest

from fcmae.report_page.curves import indices_to_draw, running_mean


@pytest.mark.parametrize("n", [0, 1, 1999, 2000, 2001, 123_457])
def test_at_most_the_limit_and_both_ends(n: int) -> None:
    kept = indices_to_draw(np.random.default_rng(0).normal(size=n))
    assert len(kept) == n if n <= 2000 else 1000 < len(kept) <= 2000
    assert (np.diff(kept) > 0).all()
    assert n == 0 or (kept[0], kept[-1]) == (0, n - 1)


@pytest.mark.parametrize("place", [0, 1, 77_777, 99_998, 99_999])
@pytest.mark.parametrize("odd", [1e3, -1e3, np.nan])
def test_one_odd_value_in_many_is_kept(place: int, odd: float) -> None:
    values = np.random.default_rng(0).normal(size=100_000)
    values[place] = odd
    assert place in indices_to_draw(values)


def test_every_stretch_keeps_its_extremes() -> None:
    """The envelope of what is drawn is the envelope of all, stretch by stretch."""
    values = np.random.default_rng(0).normal(size=60_000).cumsum()
    values[20_100:30_000] = np.nan
    kept = indices_to_draw(values, limit=602)
    for first in range(0, 60_000, 300):  # 200 buckets
        there = kept[(kept >= first) & (kept < first + 300)]
        stretch = values[first : first + 300]
        if np.isnan(stretch).all():
            assert len(there) == 1
        else:
            assert np.nanmin(values[there]) == np.nanmin(stretch)
            assert np.nanmax(values[there]) == np.nanmax(stretch)
            assert np.isnan(values[there]).any() == np.isnan(stretch).any()


def test_running_mean_is_the_mean_of_those_around() -> None:
    values = 1e6 + np.random.default_rng(0).normal(size=50)
    values[[3, 4, 20]] = np.nan
    means = running_mean(values, 7)
    for i, value in enumerate(values):
        expected = np.nan if np.isnan(value) else np.nanmean(values[max(0, i - 3) : i + 4])
        np.testing.assert_allclose(means[i], expected, rtol=1e-13)
    assert np.isnan(running_mean(np.full(5, np.nan), 3)).all()

"""Downsampling of long series for plotting."""

import itertools

import numpy as np

MAX_POINTS = 2000
SMOOTH_FROM = 200  # shorter series need no running mean


def indices_to_draw(values: np.ndarray, limit: int = MAX_POINTS) -> np.ndarray:
    """Indices of the values [n] to draw, at most ``limit``, ascending. Spikes and gaps are preserved.

    Above the limit the values are split into buckets of equal length. Each bucket keeps its minimum, its maximum and,
    if it has any, one NaN. The first and last values are kept too.
    """
    n = len(values)
    if n <= limit:
        return np.arange(n)
    edges = np.linspace(0, n, (limit - 2) // 3 + 1).astype(int)
    kept = {0, n - 1}
    for first, end in itertools.pairwise(edges):
        bucket = values[first:end]
        finite = np.isfinite(bucket)
        if finite.any():
            kept.add(first + int(np.where(finite, bucket, np.inf).argmin()))
            kept.add(first + int(np.where(finite, bucket, -np.inf).argmax()))
        if not finite.all():
            kept.add(first + int(finite.argmin()))
    return np.array(sorted(kept))


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Centered mean over ``window`` (odd) values, [n] → [n]; the window is truncated at the ends. NaN stays NaN."""
    half, n = window // 2, len(values)
    finite = np.isfinite(values)
    # subtract the mean first, because plain running sums of a million values would lose precision
    center = values[finite].mean() if finite.any() else 0.0
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values - center, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    first, end = np.maximum(np.arange(n) - half, 0), np.minimum(np.arange(n) + half + 1, n)
    with np.errstate(invalid="ignore"):
        means = center + (sums[end] - sums[first]) / (counts[end] - counts[first])
    return np.where(finite, means, np.nan)

"""Measures a set before training: the range of its values, and each channel's mean and standard deviation.

From a seeded sample, so that every process finds the same numbers.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from fcmae.data.draws import sample_seed
from fcmae.data.images import ImageFile, UnreadableImageError, decoded, open_image
from fcmae.data.pixel_reading import PixelReading
from fcmae.data.reading.opened import Window
from fcmae.data.reading.values import in_unit_range
from fcmae.data.stored import ImageRef

logger = logging.getLogger(__name__)

FEW = 32
"""Files that decide whether the set is of 8 bits; if it is, these are enough for the contrast, too."""
FILES, WINDOWS, PER_FILE = 256, 256, 8
"""Most files of a sample, windows over all of them, and windows of one file."""
SIDE, VALUES = 256, 4096
"""Pixels along a window's side at most, and values of each channel that are kept of a window at most."""
LOW, HIGH = 0.1, 99.9
"""Percentiles that a value range is made of."""
MARGIN = 0.25
"""Share of the distance between them that the range may extend to smaller and larger values."""
SENTINELS = (-9999.0, -99999.0, -999.0, -32768.0, -32767.0, 65535.0, -1e20, 1e20, -3.4e38, 3.4e38)
RARE = 5e-4
SIGNIFICANT = 6  # digits of what is measured


@dataclass(frozen=True)
class SampledSet:
    """Values of a sample of a set, in the network's channels."""

    values: np.ndarray
    """float64 [C, N], NaN where missing; 8-bit images in 0 … 255, mapped by no range."""
    units: np.ndarray
    """float32 [C, N]: the same in 0 … 1, as the reading of the sample maps them."""
    shallow: ImageRef | None
    """A file of 8 bits, if there is one."""
    deep: ImageRef | None
    """A file of more than 8 bits, if there is one."""


def sample(paths: Sequence[ImageRef], reading: PixelReading, seed: int) -> SampledSet | None:
    """Windows of some files of a set; None if none of these files can be read."""
    random = Random(sample_seed(seed, 0, len(paths)))
    chosen = random.sample(range(len(paths)), min(FILES, len(paths)))
    values: list[np.ndarray] = []
    units: list[np.ndarray] = []
    shallow = deep = None
    each = min(PER_FILE, math.ceil(WINDOWS / len(chosen)))
    for number, place in enumerate(chosen):
        if number >= FEW and deep is None:
            break
        try:
            file = open_image(paths[place], reading)
            if each > 1 and not file.opened.windowed:
                file = decoded(file)
            for of_values, of_units in windows_of(file, each, random):
                values.append(of_values)
                units.append(of_units)
        except UnreadableImageError:
            continue
        if file.opened.dtype in (np.uint8, np.bool_):
            shallow = shallow or paths[place]
        else:
            deep = deep or paths[place]
    if not values:
        return None
    return SampledSet(np.concatenate(values, axis=1), np.concatenate(units, axis=1), shallow, deep)


def windows_of(file: ImageFile, count: int, random: Random) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Values and units as in :class:`SampledSet`, of each of ``count`` windows of a file (one of a small image)."""
    for window, plane in _windows(file, count, random):
        array, gone = file.own_values(window, plane)
        kept = np.array(random.sample(range(array[0].size), min(VALUES, array[0].size)))
        flat = array.reshape(len(array), -1)[:, kept]
        missing = None if gone is None else gone.reshape(len(gone), -1)[:, kept]
        scale = file.reading.pairs(), file.opened.full_scale  # neither: mapped once the range is measured
        unit = in_unit_range(flat[:, None], None if missing is None else missing[:, None], *scale).numpy()
        values = flat.astype(np.float64)
        if missing is not None:
            values[missing] = np.nan
        yield values, (unit / np.float32(255) if unit.dtype == np.uint8 else unit)[:, 0]


def _windows(file: ImageFile, count: int, random: Random) -> Iterator[tuple[Window, int]]:
    height, width = min(file.height, SIDE), min(file.width, SIDE)
    if (height, width) == (file.height, file.width):
        count = min(count, file.planes)
    for _ in range(count):
        top, left = random.randint(0, file.height - height), random.randint(0, file.width - width)
        yield Window(top, left, height, width), random.randrange(file.planes)


def value_range(values: np.ndarray) -> tuple[float, ...]:
    """low, high of each channel in turn, of float64 [C, N] with NaN where missing.

    The 0.1 and 99.9 percentiles, extended by up to a quarter of their distance to the smallest and the largest value: a
    single hot pixel does not stretch the range, and what is a little brighter than most is not clipped. A value far
    from all others that many pixels have is left out, with a warning: it probably means that there is no data.
    """
    found: list[float] = []
    for number, channel in enumerate(values):
        there = channel[np.isfinite(channel)]
        there = _without_sentinels(there, number)
        if not there.size:
            found += [0.0, 1.0]
            continue
        low, high = (float(v) for v in np.percentile(there, [LOW, HIGH]))
        margin = MARGIN * (high / 2 - low / 2) * 2
        low, high = max(float(there.min()), low - margin), min(float(there.max()), high + margin)
        low, high = (float(f"{edge:.{SIGNIFICANT}g}") for edge in (low, high))  # for those who read config.yaml
        found += [low, high if high > low else low + max(1.0, abs(low) * 1e-3)]
    return tuple(found)


def shortest_range(pairs: tuple[float, ...]) -> tuple[float, ...]:
    """One pair where all channels have the same."""
    return pairs[:2] if pairs == pairs[:2] * (len(pairs) // 2) else pairs


def _without_sentinels(values: np.ndarray, channel: int) -> np.ndarray:
    for extreme, share in sentinels(values):
        logger.warning(
            "channel %d: %.2g%% of its values are %g, far from all others. If they mean that there is no data, set "
            "--data.nodata %g; they are left out of the value range",
            channel + 1, 100 * share, extreme, extreme,
        )  # fmt: skip
        values = values[values != extreme]
    return values


def sentinels(values: np.ndarray) -> list[tuple[float, float]]:
    """The smallest and the largest of finite values [N], with its share, if many have it and it is far from the rest.

    It probably means that there is no data.
    """
    found = []
    for pick, towards in ((np.min, 1), (np.max, -1)):
        if values.size < 2:
            break
        extreme = float(pick(values))
        at_extreme = values == extreme
        rest = values[~at_extreme]
        share = float(at_extreme.mean())
        if not rest.size or share < RARE:
            continue
        gap = (float(pick(rest)) / 2 - extreme / 2) * towards
        span = float(np.percentile(rest, HIGH)) / 2 - float(np.percentile(rest, LOW)) / 2
        known = any(math.isclose(extreme, sentinel, rel_tol=0.01) for sentinel in SENTINELS)
        if gap > (0.5 if known else 3.0) * span and (known or share < 0.5):
            found.append((extreme, share))
            values = rest
    return found


def mean_std(units: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of each channel of [C, N] in 0 … 1, NaN left out; a channel of one value gets a standard deviation of 1."""
    means, stds = [], []
    for channel in units:
        there = channel[np.isfinite(channel)].astype(np.float64)
        mean, std = (float(there.mean()), float(there.std())) if there.size else (0.5, 1.0)
        means.append(float(f"{mean:.{SIGNIFICANT}g}"))
        stds.append(float(f"{std:.{SIGNIFICANT}g}") if std > 1e-6 else 1.0)
    return tuple(means), tuple(stds)


def in_range(values: np.ndarray, pairs: Sequence[tuple[float, float]]) -> np.ndarray:
    """float64 [C, N] → float32 in 0 … 1."""
    missing = np.isnan(values)[:, None]
    return in_unit_range(values[:, None], missing if missing.any() else None, tuple(pairs), None).numpy()[:, 0]


def contrast(units: np.ndarray, std: Sequence[float]) -> float:
    """The standard deviation after normalization, over all channels; 1 is usual."""
    shares = [np.nanvar(channel.astype(np.float64)) / s**2 for channel, s in zip(units, std, strict=True)]
    return float(np.sqrt(np.nanmean(shares)))

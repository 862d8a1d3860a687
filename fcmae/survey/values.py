"""The values of a set: ranges, mean and standard deviation of each channel, over a sample that the seed draws."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from fcmae.data import measure
from fcmae.data.draws import sample_seed
from fcmae.data.images import UnreadableImageError, decoded, open_image
from fcmae.data.pixel_reading import PixelReading
from fcmae.data.sources.image_set import ImageSet

BINS = 64
MOST = 2**16
"""Values of all channels that are kept of a window."""


class FileValues(NamedTuple):
    """Of one file, in the network's channels."""

    values: np.ndarray
    """float64 [C, n], NaN where missing."""
    units: np.ndarray
    """float32 [C, n] in 0 … 1."""


class SampledValues(Dataset[FileValues | None]):
    """Values of some files of a set: ``each`` windows of a file, drawn by the seed and the file's place; None if it is
    damaged."""

    def __init__(self, images: ImageSet, places: Sequence[int], reading: PixelReading, each: int, seed: int) -> None:
        self.images, self.places, self.reading, self.each, self.seed = images, places, reading, each, seed

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> FileValues | None:
        place = self.places[number]
        random = Random(sample_seed(self.seed, 1, place))
        try:
            file = open_image(self.images[place], self.reading)
            if self.each > 1 and not file.opened.windowed:
                file = decoded(file)
            found = list(measure.windows_of(file, self.each, random))
        except UnreadableImageError:
            return None
        values, units = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
        step = max(1, len(values) * measure.VALUES // MOST)
        return FileValues(values[:, ::step], units[:, ::step])


@dataclass(frozen=True)
class ChannelStats:
    """One channel, in the files' own values."""

    minimum: float
    maximum: float
    mean: float
    std: float
    nodata_share: float
    """Share of the values that are missing."""
    counts: tuple[int, ...]
    """Histogram of 64 bins from ``low`` to ``high``."""
    low: float
    high: float


@dataclass(frozen=True)
class MeasuredValues:
    """What the sample says, and what follows for the settings."""

    channels: tuple[ChannelStats, ...]
    value_range: tuple[float, ...] | None
    """low, high of each channel; None for 8-bit images, which need none."""
    mean: tuple[float, ...]
    """Of each channel in 0 … 1, after the value range."""
    std: tuple[float, ...]
    nodata: float | None
    """A value far from all others that probably means that there is no data."""
    zeros: float
    """Share of the pixels that are 0 in every channel."""


def measured(found: Sequence[FileValues], is_deep: bool, is_unsigned: bool, nodata: float | None) -> MeasuredValues:
    """The statistics of a sample.

    Args:
        found: of at least one file.
        is_deep: the files have more than 8 bits, and so need a value range.
        is_unsigned: a value means that there is no data only where all channels have it.
        nodata: the value that is left out already; None: look for one.
    """
    values = np.concatenate([one.values for one in found], axis=1)
    units = np.concatenate([one.units for one in found], axis=1)
    zeros = float((values == 0).all(axis=0).mean())
    if is_deep and nodata is None:
        nodata = _undeclared(values, is_unsigned)
        if nodata is not None:
            gone = values == nodata
            values[np.broadcast_to(gone.all(axis=0), gone.shape) if is_unsigned else gone] = np.nan
    else:
        nodata = None
    pairs = None
    if is_deep:
        pairs = measure.value_range(values)
        units = measure.in_range(values, list(zip(pairs[::2], pairs[1::2], strict=True)))
    mean, std = measure.mean_std(units)
    limits = [(0.0, 255.0)] * len(values) if pairs is None else list(zip(pairs[::2], pairs[1::2], strict=True))
    channels = tuple(_channel(values[n], *limits[n]) for n in range(len(values)))
    return MeasuredValues(channels, pairs, mean, std, nodata, zeros)


def _undeclared(values: np.ndarray, is_unsigned: bool) -> float | None:
    """The one value that is far from all others in the channels that have such a value; in unsigned files in all."""
    of_channels = [[value for value, _ in measure.sentinels(one[np.isfinite(one)])] for one in values]
    met = {value for some in of_channels for value in some}
    if len(met) != 1 or (is_unsigned and not all(of_channels)):
        return None
    return met.pop()


def _channel(values: np.ndarray, low: float, high: float) -> ChannelStats:
    there = values[np.isfinite(values)]
    if not there.size:
        nan = float("nan")
        return ChannelStats(nan, nan, nan, nan, 1.0, (0,) * BINS, low, high)
    counts, _ = np.histogram(np.clip(there, low, high), BINS, (low, high))
    least, most, mean, std = (float(one) for one in (there.min(), there.max(), there.mean(), there.std()))
    return ChannelStats(least, most, mean, std, 1 - there.size / values.size, tuple(counts.tolist()), low, high)

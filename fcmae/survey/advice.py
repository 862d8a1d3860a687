"""From what a set is like to the flags of ``fcmae pretrain``."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fcmae.config.small_sets import stem_stride
from fcmae.data.measure import shortest_range
from fcmae.data.pixel_reading import MAX_PIXELS, PixelReading
from fcmae.models import ModelConfig
from fcmae.survey.facts import Kind
from fcmae.survey.values import MeasuredValues

SIZES = ((160, 224), (96, 128), (48, 64), (0, 32))
"""Least short side of nine images in ten, and img_size for it."""
DARK = 0.05
"""A share of pixels that are 0 in all channels from which on a note asks what they mean."""
PACKS, PACKED = 2.5, 320
"""Images with a short side so many times img_size are worth packing, to this short side for img_size 224."""
SCENE, HUGE = 4, 32
"""Times img_size from which on an image read by windows, or any image, is a scene: a crop takes a small part of it."""


class Sizes(NamedTuple):
    """Of the readable images."""

    heights: np.ndarray
    """int [N]."""
    widths: np.ndarray
    windowed: np.ndarray
    """bool [N]: a crop is read without the rest of the file."""

    @property
    def short(self) -> np.ndarray:
        """Short sides."""
        return np.minimum(self.heights, self.widths)


def best_channels(kinds: Counter[Kind]) -> int:
    """The number of input channels that most files fit; of several the largest, without opacity."""
    candidates = {kind.colors for kind in kinds}
    return max(candidates, key=lambda n: (sum(count for kind, count in kinds.items() if kind.fits(n)), n))


def advise(
    kinds: Counter[Kind],
    sizes: Sizes,
    values: MeasuredValues,
    reading: PixelReading,
) -> tuple[list[str], list[str]]:
    """Flags of ``fcmae pretrain``, and notes for people.

    Args:
        kinds: of the readable files.
        sizes: of the readable files.
        values: of the sample.
        reading: how the files were read; what it says of pages, levels, slices, sizes and nodata is passed on.
    """
    in_chans = best_channels(kinds)
    flags = ["--model.in_chans", str(in_chans)]
    notes = _notes_on_kinds(kinds, in_chans)
    for name, default in (("stack", "auto"), ("level", 0), ("slices", "axial"), ("max_pixels", MAX_PIXELS)):
        if getattr(reading, name) != default:
            flags += [f"--data.{name}", str(getattr(reading, name))]
    if values.value_range is not None:
        flags += ["--data.value_range", numbers(shortest_range(values.value_range))]
    missing = reading.nodata if reading.nodata is not None else values.nodata
    if missing is not None:
        flags += ["--data.nodata", f"{missing:g}"]
    if values.nodata is not None:
        share = max(one.nodata_share for one in values.channels)
        notes.append(f"{share:.2%} of the values are {values.nodata:g}, far from all others: taken for nodata")
    if values.zeros >= DARK and missing != 0 and in_chans > 1:
        notes.append(f"{values.zeros:.0%} of the pixels are 0 in all channels; if they have no data: --data.nodata 0")
    flags += ["--data.mean", numbers(values.mean), "--data.std", numbers(values.std)]
    size, stride = image_size(sizes.short)
    flags += ["--model.img_size", str(size)]
    flags += [] if stride == ModelConfig().stride else ["--model.stem_stride", str(stride)]
    crops, more = _crops(sizes, size)
    return flags + crops, notes + more


def image_size(short: np.ndarray) -> tuple[int, int]:
    """img_size and stem_stride, as the recipe ``auto`` has it, for images of these short sides [N]."""
    most = float(np.percentile(short, 10))
    size = next(size for least, size in SIZES if most >= least)
    return size, stem_stride(ModelConfig().name, (size, size))


def _notes_on_kinds(kinds: Counter[Kind], in_chans: int) -> list[str]:
    notes = []
    strangers = {kind: count for kind, count in kinds.items() if not kind.fits(in_chans)}
    if strangers:
        named = ", ".join(f"{count:,} of {kind}" for kind, count in strangers.items())
        notes.append(
            f"{named}: they do not fit --model.in_chans {in_chans} and will be skipped, unless --data.bands picks "
            f"channels that all files have, or --data.stack says what pages are"
        )
    fitting = [kind for kind in kinds if kind not in strangers]
    if len({kind.is_deep for kind in fitting}) > 1:
        notes.append(
            "some files have 8 bits and some more: without --data.value_range each is mapped to 0 … 1 by its own type"
        )
    return notes


def _crops(sizes: Sizes, size: int) -> tuple[list[str], list[str]]:
    """Flags and notes on crops, for images far larger than the network's."""
    times = float(np.median(sizes.short)) / size
    if (times >= SCENE and sizes.windowed.mean() > 0.5) or times >= HUGE:
        area = float(np.median(sizes.heights.astype(float) * sizes.widths)) / size**2
        scale = f"{_round(1 / area)},{_round(min(1.0, 4 / area))}"
        repeat = max(1, round(area / 2))
        flags = ["--data.crop_scale", scale, "--data.repeat", str(repeat)]
        return flags, [f"large scenes: crops of {size} to {2 * size} pixels, about enough an epoch to cover each scene"]
    if times >= PACKS:
        side = math.ceil(PACKED * size / 224 / 16) * 16
        return [], [
            f"the images are {times:.1f} times as large as img_size: fcmae pack SOURCE DST --short_side {side} makes "
            f"shards that load faster"
        ]
    return [], []


def _round(number: float) -> str:
    return f"{number:.2g}"


def numbers(values: Sequence[float]) -> str:
    """As a flag takes them: ``0.48,0.45,0.4``."""
    return ",".join(f"{value:.6g}" for value in values)

"""The levels of a TIFF's pyramid: the one that stands for the image, and smaller ones for far larger crops."""

from collections.abc import Sequence
from itertools import takewhile

import tifffile

from fcmae.data.reading.opened import Window

SLIDES = ("svs", "ndpi", "scn", "philips", "bif", "avs", "qpi")
"""Formats of slide scanners, by tifffile's names: beside the scan they hold a label, a macro image or a thumbnail."""


def is_slide(series: tifffile.TiffPageSeries) -> bool:
    """Whether a slide scanner wrote it."""
    return series.kind in SLIDES


def levels_of(tiff: tifffile.TiffFile, level: int) -> list[tifffile.TiffPageSeries]:
    """The levels of the first image, of a slide the largest, from ``level`` on.

    Raises:
        ValueError: it has not as many.
    """
    series = tiff.series[0]
    if is_slide(series):
        series = max(tiff.series, key=lambda one: one.keyframe.imagelength * one.keyframe.imagewidth)
    return list(series.levels[checked_level(level, len(series.levels)) :])


def checked_level(level: int, count: int) -> int:
    """The level to read of ``count``; 0 if there is but one resolution.

    Raises:
        ValueError: there are not as many.
    """
    if count > 1 and level >= count:
        raise ValueError(f"has {count} levels, 0 to {count - 1}, but --data.level is {level}")
    return level if count > 1 else 0


def reductions(levels: Sequence[tifffile.TiffPageSeries]) -> tuple[int, ...]:
    """How many times smaller each level is than the first, whole numbers from 1; up to a level that does not fit."""
    alike = takewhile(lambda level: len(level.pages) == len(levels[0].pages), levels)
    return factors([(level.keyframe.imagelength, level.keyframe.imagewidth) for level in alike])


def factors(sizes: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """How many times smaller each (height, width) is than the first, up to one that is no whole number of times."""
    found = [1]
    for size in sizes[1:]:
        factor = max(1, round(sizes[0][0] / size[0])) if size[0] else 1
        fits = all(full // factor <= part <= -(-full // factor) for full, part in zip(sizes[0], size, strict=True))
        if factor <= found[-1] or not fits:
            break
        found.append(factor)
    return tuple(found)


def level_to_read(reductions: Sequence[int], reduce: int) -> int:
    """The reduction of the smallest level with at least twice the resolution that is needed.

    Twice, because many overviews are made by leaving pixels out.
    """
    return max((n for n in reductions if 2 * n <= reduce), default=1)


def reduced(window: Window, reduction: int, height: int, width: int) -> Window:
    """The window in a level of this size."""
    top, left = min(round(window.top / reduction), height - 1), min(round(window.left / reduction), width - 1)
    rows, columns = (max(1, round(length / reduction)) for length in window[2:])
    return Window(top, left, min(rows, height - top), min(columns, width - left))

"""Overviews: the reduced-resolution levels of a large TIFF, for crops far larger than the network's images."""

from collections.abc import Sequence

import tifffile

from fcmae.data.reading.opened import Window


def reductions(series: tifffile.TiffPageSeries) -> tuple[int, ...]:
    """How many times smaller each level is than the first, whole numbers from 1; up to a level that does not fit."""
    height, width = series.keyframe.imagelength, series.keyframe.imagewidth
    found = [1]
    for level in series.levels[1:]:
        page = level.keyframe
        factor = round(height / page.imagelength)
        fits = all(
            full // factor <= reduced <= -(-full // factor)
            for full, reduced in ((height, page.imagelength), (width, page.imagewidth))
        )
        if factor <= found[-1] or not fits or len(level.pages) != len(series.pages):
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

"""Mask pages, as GDAL writes them into a TIFF: which pixels of its image have data."""

from typing import Any

import numpy as np
import tifffile

from fcmae.data.reading import tiff_segments
from fcmae.data.reading.opened import Window, turned
from fcmae.data.reading.tiff_kept import open_file
from fcmae.data.stored import ImageRef


def mask_page(tiff: tifffile.TiffFile) -> tifffile.TiffPage | None:
    """The page that is a mask of the first image at full size; None if there is none."""
    first = tiff.pages.first
    for series in tiff.series[1:]:
        page = series.keyframe
        same_size = (page.imagelength, page.imagewidth) == (first.imagelength, first.imagewidth)
        if page.is_mask and not page.is_reduced and same_size and page.samplesperpixel == 1 and page.dtype is not None:
            return page if isinstance(page.index, int) else None
    return None


def read_mask(path: ImageRef, index: int, turn: int, window: Window | None) -> np.ndarray:
    """bool [1, h, w], True where there is data: the window, or all of it, upright.

    Args:
        path: the file.
        index: of the mask among its pages.
        turn: the image's orientation.
        window: ignored if the image is turned, as its pixels ignore it.
    """
    with open_file(path) as kept:
        page: Any = kept.tiff.pages[index]
        whole = Window(0, 0, page.imagelength, page.imagewidth)
        mask = tiff_segments.read(page, window if window is not None and turn == 1 else whole)
    return turned(mask != 0, turn)

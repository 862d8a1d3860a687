"""Mask pages, as GDAL writes them into a TIFF: which pixels of its image have data."""

from typing import Any

import numpy as np
import tifffile

from fcmae.data.reading import tiff_segments
from fcmae.data.reading.opened import Window, turned
from fcmae.data.reading.tiff_kept import open_file
from fcmae.data.stored import ImageRef


def mask_page(tiff: tifffile.TiffFile, image: tifffile.TiffPage) -> tifffile.TiffPage | None:
    """The page that is a mask of an image, of its size; None if there is none."""
    masks = (level.keyframe for series in tiff.series[1:] for level in series.levels)
    for page in masks:
        same_size = (page.imagelength, page.imagewidth) == (image.imagelength, image.imagewidth)
        is_its = page.is_mask and page.is_reduced == image.is_reduced and same_size
        if is_its and page.samplesperpixel == 1 and page.dtype is not None:
            return page if isinstance(page.index, int) else None
    return None


def read_mask(path: ImageRef, index: int, turn: int, window: Window | None, _plane: int) -> np.ndarray:
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

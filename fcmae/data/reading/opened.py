"""What every reader returns: an image file whose header is read and whose pixels may wait."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

LYING = (5, 6, 7, 8)  # values of the orientation that swap height and width


class UnreadableImageError(Exception):
    """The file has no usable image; the message gives its path and the reason."""


class Window(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass
class Opened:
    """An image of known size with the file's own channels and values. Picklable, for worker processes."""

    height: int
    """Upright, as the file's orientation says."""
    width: int
    channels: int
    dtype: np.dtype
    decode: Callable[[int, Window | None, int], np.ndarray]
    """(reduce, window, plane) → [C, h, w]. A reader with ``windowed`` returns the window, smaller by one of
    ``reductions``. Others ignore it and return the whole image, a JPEG at 1/2, 1/4 or 1/8 of its size if ``reduce``
    allows that."""
    is_color: bool = False
    """The first three channels are red, green and blue."""
    has_alpha: bool = False
    """The last channel is opacity."""
    bits: int = 0
    """Significant bits of unsigned integers; 0: all of the dtype."""
    nodata: float | None = None
    """The file's own value of missing pixels."""
    planes: int = 1
    """Images in the file, all of one size."""
    windowed: bool = False
    reductions: tuple[int, ...] = (1,)
    """How many times smaller a window can be read than it is."""
    mask: Callable[[Window | None, int], np.ndarray] | None = None
    """(window, or None for the whole image; plane) → bool [1, h, w], False where the file says there is no data."""

    @property
    def full_scale(self) -> float | None:
        """The value of white in unsigned integers of up to 16 bits and bool; None for others."""
        if self.dtype == np.bool_:
            return 1.0
        if self.dtype.kind == "u" and self.dtype.itemsize <= 2:
            return float(2 ** (self.bits or 8 * self.dtype.itemsize) - 1)
        return None


def turned(array: np.ndarray, orientation: int) -> np.ndarray:
    """[C, H, W] made upright for a value of the EXIF and TIFF tag Orientation."""
    flips = {2: (-1,), 3: (-2, -1), 4: (-2,), 5: (), 6: (-1,), 7: (-2, -1), 8: (-2,)}
    if orientation not in flips:
        return array
    if orientation >= 5:  # stored on its side
        array = array.swapaxes(-2, -1)
    return np.flip(array, flips[orientation]) if flips[orientation] else array

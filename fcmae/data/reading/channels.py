"""The file's channels → the network's: the file's own count rules."""

from typing import Literal, NamedTuple

import numpy as np

from fcmae.data.pixel_reading import PixelReading
from fcmae.data.reading.opened import Opened

LUMA = (19595, 38470, 7471)  # of 65536: ITU-R 601, as Pillow weighs them


class Channels(NamedTuple):
    """Which channels of a file are taken, and what becomes of them."""

    taken: tuple[int, ...]
    """Indices from 0."""
    then: Literal["as they are", "repeat", "to gray"] = "as they are"
    copies: int = 1

    def picked(self, array: np.ndarray) -> np.ndarray:
        """[C, H, W] → the channels that are taken, not converted."""
        return array if self.taken == tuple(range(len(array))) else array[list(self.taken)]

    def spread(self, gone: np.ndarray | None) -> np.ndarray | None:
        """Where a value of :meth:`picked` is missing → where one of the converted channels is."""
        if gone is None or self.then == "as they are":
            return gone
        return np.repeat(gone.any(axis=0, keepdims=True), self.copies, axis=0)

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """[C, H, W] → [in_chans, H, W], same dtype (color to gray of deep images: float64)."""
        array = self.picked(array)
        if self.then == "repeat":
            return np.repeat(array, self.copies, axis=0)
        return to_gray(array) if self.then == "to gray" else array


def to_gray(array: np.ndarray) -> np.ndarray:
    """[3, H, W] → [1, H, W] by ITU-R 601; uint8 exactly as Pillow does it."""
    if array.dtype == np.uint8:
        sums = sum(weight * channel.astype(np.int32) for weight, channel in zip(LUMA, array, strict=True))
        return ((np.asarray(sums) + 0x8000) >> 16).astype(np.uint8)[None]
    weights = np.array(LUMA) / 65536
    return np.tensordot(weights, array.astype(np.float64), axes=1)[None]


def fitted(opened: Opened, reading: PixelReading) -> Channels:
    """The conversion for a file.

    ``bands`` picks and orders. Without it the counts must be equal, or: opacity is dropped, one gray channel is
    repeated for three, and red, green and blue become gray for one.

    Raises:
        ValueError: the counts do not fit.
    """
    count, wanted = opened.channels, reading.in_chans
    if reading.bands is not None:
        if max(reading.bands) > count:
            raise ValueError(f"has {count} channels, but --data.bands asks for band {max(reading.bands)}")
        return Channels(tuple(band - 1 for band in reading.bands))
    if count == wanted:
        return Channels(tuple(range(count)))
    opaque = count - opened.has_alpha
    if opaque == wanted:
        return Channels(tuple(range(opaque)))
    if opaque == 1 and wanted == 3:
        return Channels((0,), "repeat", 3)
    if opaque == 3 and wanted == 1 and opened.is_color:
        return Channels((0, 1, 2), "to gray")
    pages = f" in each of its {opened.planes} images" if opened.planes > 1 else ""
    example = ",".join(str(n + 1) for n in range(min(count, wanted)))
    enough = f", such as --data.bands {example}" if count > wanted else ""
    raise ValueError(
        f"has {count} channel{'s' * (count != 1)}{pages}, but --model.in_chans is {wanted}; set --model.in_chans to "
        f"the number of channels, or pick as many with --data.bands{enough}"
    )

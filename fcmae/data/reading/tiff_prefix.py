"""The first rows of a deflated strip or tile: what follows them is not inflated.

A third of the rows on average, for crops of 224 pixels in tiles of 512. The checksum at the end of a segment is read
only with the whole of it.
"""

from typing import Any

import imagecodecs
import numpy as np
import tifffile

DEFLATE = (8, 32946)
WORTH_IT = 0.9
"""Share of the rows above which the whole segment is decoded, which is a little faster per row."""


def first_rows(data: bytes, key: tifffile.TiffPage, rows: int, hw: tuple[int, int]) -> np.ndarray | None:
    """[rows, w, samples] in native byte order; None if the segment must be decoded as a whole.

    Args:
        data: the segment.
        key: its page.
        rows: as many are needed.
        hw: height and width of the segment.
    """
    dtype: Any = key.dtype
    plain = key.fillorder == 1 and dtype.kind in "uif" and key.bitspersample == 8 * dtype.itemsize
    if key.compression not in DEFLATE or not plain or rows > WORTH_IT * hw[0] or not imagecodecs.ZLIBNG.available:
        return None
    if key.predictor != 1 and (key.predictor != 2 or dtype.kind == "f"):
        return None
    samples = key.samplesperpixel if key.planarconfig == 1 else 1
    out = np.empty((rows, hw[1], samples), dtype.newbyteorder(key.parent.byteorder))
    try:
        found = len(imagecodecs.zlibng_decode(data, out=out.reshape(-1).view(np.uint8).data))
    except imagecodecs.ZlibngError as error:
        # zlib documents that the output is full then
        found = out.nbytes if "Z_BUF_ERROR" in str(error) else 0
    if found < out.nbytes:
        return None
    out = out.astype(dtype.newbyteorder("="), copy=False)
    return imagecodecs.delta_decode(out, axis=-2, out=out) if key.predictor == 2 else out

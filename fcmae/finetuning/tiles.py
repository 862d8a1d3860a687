"""Labeled images that need no files: tiles of the bundled photos, each labeled with its photo."""

from functools import cache

import numpy as np
from PIL import Image

from fcmae.data.folder import embedded_photographs, evenly_spaced

SIDE = 96  # pixels
AT_MOST = 24  # of a photo


@cache
def photo_tiles() -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Tiles that do not overlap, evenly spaced, at most 24 of a photo.

    Returns:
        uint8 [N, 3, 96, 96]; the number of each tile's photo, int64 [N]; and the photos' names.
    """
    tiles, labels = [], []
    photos = embedded_photographs()
    for label, photo in enumerate(photos):
        with Image.open(photo) as opened:
            pixels = np.asarray(opened.convert("RGB"))
        rows, columns = (range(0, size - SIDE + 1, SIDE) for size in pixels.shape[:2])
        chosen = evenly_spaced([(top, left) for top in rows for left in columns], AT_MOST)
        tiles += [pixels[top : top + SIDE, left : left + SIDE].transpose(2, 0, 1) for top, left in chosen]
        labels += [label] * len(chosen)
    return np.stack(tiles), np.array(labels, dtype=np.int64), tuple(photo.stem for photo in photos)

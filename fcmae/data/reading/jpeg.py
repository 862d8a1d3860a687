"""JPEG files: the size without decoding, and a reduced size where that is enough."""

import contextlib
import io
from functools import partial

import imagecodecs
import numpy as np
from PIL import Image

from fcmae.data.jpeg_header import read_frame
from fcmae.data.reading import limits, pillow
from fcmae.data.reading.opened import LYING, Opened, Window

try:
    import simplejpeg
except ImportError:  # no wheel for this Python version yet: Pillow decodes all JPEGs
    simplejpeg = None

START = b"\xff\xd8\xff"
SCALES = (1, 2, 4, 8)  # reduction factors that the decoder applies at no extra cost


def open_jpeg(data: bytes, max_pixels: int, prefer_fast: bool) -> Opened:
    """Use Pillow where the header is ambiguous, and the faster simplejpeg where both decode the same pixels.

    Args:
        data: the file.
        max_pixels: see :mod:`fcmae.data.reading.limits`.
        prefer_fast: whether simplejpeg may decode; its colors differ from Pillow's by rounding.
    """
    frame = read_frame(data)
    fast = frame is not None and frame.channels in (1, 3) and prefer_fast and simplejpeg is not None
    if frame and frame.is_alone:
        height, width, channels = frame.height, frame.width, frame.channels
    else:
        try:
            with pillow.opened_header(io.BytesIO(data)) as header:
                limits.check_size(header.height, header.width, len(header.getbands()), max_pixels)
                orientation = header.getexif().get(pillow.ORIENTATION, 1)
                fast = fast and header.format == "JPEG" and orientation == 1
                width, height = reversed(header.size) if orientation in LYING else header.size
                channels = len(header.getbands())
        except Image.UnidentifiedImageError:
            return _open_rare(data, max_pixels)
    limits.check_size(height, width, channels, max_pixels)
    limits.check_plausible(height * width * channels, len(data), limits.JPEG)
    channels = 1 if channels == 1 else 3
    # other kinds of frames cannot be decoded at a reduced size
    decode = partial(_decode, data, frame and frame[:2], fast, channels)
    return Opened(height, width, channels, np.dtype(np.uint8), decode, is_color=channels == 3)


def _decode(
    data: bytes,
    reducible_hw: tuple[int, int] | None,
    fast: bool,
    channels: int,
    reduce: int,
    _window: Window | None,
    _plane: int,
) -> np.ndarray:
    factor = max(n for n in SCALES if n <= max(1, reduce)) if reducible_hw else 1
    if fast and reducible_hw:
        least = [-(-length // factor) for length in reducible_hw]
        space = "RGB" if channels == 3 else "GRAY"
        with contextlib.suppress(ValueError):  # simplejpeg is strict: Pillow may read files that it rejects
            pixels = simplejpeg.decode_jpeg(data, space, min_height=least[0], min_width=least[1], min_factor=factor)
            return np.moveaxis(pixels, 2, 0)
    with pillow.opened_header(io.BytesIO(data)) as image:
        if factor > 1 and image.format == "JPEG":  # decodes at the nearest of 1/2, 1/4, 1/8 that is not smaller
            image.draft(image.mode, (max(1, image.width // factor), max(1, image.height // factor)))
        return pillow.upright_pixels(image).array


def _open_rare(data: bytes, max_pixels: int) -> Opened:
    """Twelve bits, and lossless frames that Pillow does not know."""
    size = _frame_size(data)
    if size is None:
        raise ValueError("cannot identify this kind of JPEG")
    limits.check_size(*size[:2], 2 * size[2], max_pixels)
    array = np.atleast_3d(imagecodecs.jpeg_decode(data))
    array = np.moveaxis(array, 2, 0)
    return pillow.in_memory(array, is_color=len(array) == 3, bits=size[3])


def _frame_size(data: bytes) -> tuple[int, int, int, int] | None:
    """Height, width, channels and bits of the first frame of any kind."""
    position = 2
    while position + 10 <= len(data) and data[position] == 0xFF:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = (int.from_bytes(data[position + at : position + at + 2], "big") for at in (5, 7))
            return height, width, data[position + 9], data[position + 4]
        position += 2 + length
    return None

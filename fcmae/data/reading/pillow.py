"""Files that Pillow reads: PNG, GIF, BMP, WebP, AVIF, JPEG 2000, 8-bit TIFF and more, and HEIC with pillow-heif."""

import contextlib
import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from fcmae.data.reading import limits
from fcmae.data.reading.opened import Opened, Window

ORIENTATION = 0x0112  # the tag of EXIF and of TIFF
AS_THEY_ARE = ("L", "LA", "RGB", "RGBA")
CONVERTED = {"1": "L", "La": "LA", "RGBa": "RGBA", "PA": "RGBA"}  # others: RGB
RATIOS = {"PNG": limits.DEFLATE, "GIF": limits.LZW, "BMP": limits.LZW, "PPM": 16, "TGA": 200, "JPEG": limits.JPEG}
"""Most bytes of pixels per byte of file, where the format has such a bound."""


class Pixels(NamedTuple):
    """An image with the channels it has of its own."""

    array: np.ndarray
    """[C, H, W]."""
    is_color: bool
    has_alpha: bool


def open_pillow(file: Path | io.BytesIO, present: int, max_pixels: int) -> Opened:
    """Decode the first image of a file of ``present`` bytes."""
    with opened_header(file) as image:
        height, width = image.height, image.width
        itemsize = {"I": 4, "F": 4, "I;16": 2, "I;16B": 2, "I;16L": 2}.get(image.mode, len(image.getbands()))
        limits.check_size(height, width, itemsize, max_pixels)
        if ratio := RATIOS.get(image.format or ""):
            bits = 1 if image.mode == "1" else 8 * itemsize
            limits.check_plausible(height * width * bits // 8, present, ratio)
        pixels = upright_pixels(image)
    return in_memory(pixels.array, pixels.is_color, pixels.has_alpha)


@contextlib.contextmanager
def opened_header(file: Path | io.BytesIO) -> Iterator[Image.Image]:
    """Pillow's image, without its own limit on the size: ours depends on the settings."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(file) as image:
            yield image
    finally:
        Image.MAX_IMAGE_PIXELS = before


def upright_pixels(opened: Image.Image) -> Pixels:
    """Decode with the orientation applied; palettes, CMYK, bilevel and other color spaces are converted."""
    image = ImageOps.exif_transpose(opened)
    image.load()  # load now, so that a truncated file fails here
    if image.mode.startswith("I") or image.mode == "F":
        array = np.asarray(image)
        # some versions of Pillow return 16-bit PNGs as 32-bit integers, all of them 16-bit PGMs
        deep = array.astype(np.uint16) if opened.format in ("PNG", "PPM") and image.mode != "F" else array
        return Pixels(deep[None], is_color=False, has_alpha=False)
    if image.mode == "P":
        # converting transparent palette entries directly to RGB is wrong
        transparent = "transparency" in image.info
        image = image.convert("RGBA")
        return _split(np.array(image) if transparent else np.array(image)[..., :3])
    if image.mode not in AS_THEY_ARE:
        image = image.convert(CONVERTED.get(image.mode, "RGB"))
    return _split(np.array(image))


def _split(array: np.ndarray) -> Pixels:
    """[H, W] or [H, W, C] of gray or RGB, with or without opacity."""
    chw = array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0)
    return Pixels(chw, is_color=len(chw) >= 3, has_alpha=len(chw) in (2, 4))


def in_memory(
    array: np.ndarray, is_color: bool = False, has_alpha: bool = False, bits: int = 0, nodata: float | None = None
) -> Opened:
    """A decoded image, [C, H, W] or with several planes [P, C, H, W]."""
    planes = array if array.ndim == 4 else array[None]
    if 0 in planes.shape:
        raise ValueError(f"an image of {planes.shape[2]}×{planes.shape[3]} pixels")
    return Opened(
        planes.shape[2], planes.shape[3], planes.shape[1], array.dtype, partial(_whole, planes),
        is_color=is_color, has_alpha=has_alpha, bits=bits, nodata=nodata, planes=len(planes),
    )  # fmt: skip


def _whole(planes: np.ndarray, _reduce: int, _window: Window | None, plane: int) -> np.ndarray:
    return planes[plane]

"""Formats and depths that Pillow does not read in full: 16-bit color PNG, deep JPEG 2000 and AVIF, JPEG XL."""

import io
import struct

import imagecodecs
import numpy as np

from fcmae.data.reading import limits, pillow
from fcmae.data.reading.opened import Opened, turned

PNG = b"\x89PNG\r\n\x1a\n"
JXL = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
J2K = (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
AVIF_BRANDS = (b"avif", b"avis")


def deep_png(data: bytes, max_pixels: int) -> Opened | None:
    """A PNG of 16 bits and more than one channel; None for others."""
    if len(data) < 33 or not data.startswith(PNG) or data[24] != 16 or data[25] not in (2, 4, 6):
        return None
    width, height = struct.unpack(">II", data[16:24])
    channels = {2: 3, 4: 2, 6: 4}[data[25]]
    limits.check_size(height, width, 2 * channels, max_pixels)
    limits.check_plausible(height * width * 2 * channels, len(data), limits.DEFLATE)
    array = np.moveaxis(imagecodecs.png_decode(data), 2, 0)
    if b"eXIf" in data:
        with pillow.opened_header(io.BytesIO(data)) as header:
            array = turned(array, header.getexif().get(pillow.ORIENTATION, 1))
    return pillow.in_memory(array, is_color=channels >= 3, has_alpha=channels in (2, 4))


def deep_jpeg2000(data: bytes, max_pixels: int) -> Opened | None:
    """A JPEG 2000 image that is not of 8 bits, or of more channels than Pillow's modes have; None for others."""
    if (size := jpeg2000_size(data)) is None:
        return None
    height, width, channels, bits = size
    limits.check_size(height, width, channels * (1 + (bits > 8)), max_pixels)
    if bits == 8 and channels in (1, 3):
        return None
    array = np.moveaxis(np.atleast_3d(imagecodecs.jpeg2k_decode(data)), 2, 0)
    return pillow.in_memory(array, is_color=channels == 3, bits=bits)


def jpeg2000_size(data: bytes) -> tuple[int, int, int, int] | None:
    """Height, width, channels and bits of a JPEG 2000 codestream; None if there is none."""
    start = data.find(J2K[0])
    if start < 0 or len(data) < start + 46:
        return None
    right, bottom, left, top = struct.unpack(">IIII", data[start + 8 : start + 24])
    channels = int.from_bytes(data[start + 40 : start + 42], "big")
    return bottom - top, right - left, channels, (data[start + 42] & 0x7F) + 1


def deep_avif(data: bytes, max_pixels: int) -> Opened | None:
    """An AVIF of 10 or 12 bits; None for others."""
    config = data.find(b"av1C")
    if config < 0 or len(data) < config + 8 or not data[config + 6] & 0x40:
        return None
    with pillow.opened_header(io.BytesIO(data)) as header:
        limits.check_size(header.height, header.width, 2 * len(header.getbands()), max_pixels)
        turn = header.getexif().get(pillow.ORIENTATION, 1)  # of irot and imir too
    array = turned(np.moveaxis(np.atleast_3d(imagecodecs.avif_decode(data)), 2, 0), turn)
    bits = 12 if data[config + 6] & 0x20 else 10
    return pillow.in_memory(array, is_color=len(array) >= 3, has_alpha=len(array) in (2, 4), bits=bits)


def open_jxl(data: bytes, max_pixels: int) -> Opened:
    """A JPEG XL image of any depth; of an animation the first frame."""
    height, width = jxl_size(data)
    limits.check_size(height, width, 4, max_pixels)
    array = imagecodecs.jpegxl_decode(data)
    array = array[0] if array.ndim == 4 else array
    array = np.moveaxis(np.atleast_3d(array), 2, 0)
    return pillow.in_memory(array, is_color=len(array) >= 3, has_alpha=len(array) in (2, 4))


def jxl_size(data: bytes) -> tuple[int, int]:
    """Height and width from the first bits of a JPEG XL codestream (ISO 18181-1, SizeHeader).

    Raises:
        ValueError: there is no codestream.
    """
    at = 0
    if data.startswith(JXL[1]):  # in boxes; jxlp has four bytes before its part of the codestream
        at = next((data.find(box) + skip for box, skip in ((b"jxlc", 4), (b"jxlp", 8)) if box in data), -1)
    if at < 0 or data[at : at + 2] != JXL[0] or len(data) < at + 12:
        raise ValueError("no JPEG XL codestream")
    bits, position = int.from_bytes(data[at + 2 : at + 14], "little"), 0

    def take(count: int) -> int:
        nonlocal position
        value = bits >> position & ((1 << count) - 1)
        position += count
        return value

    small = take(1)

    def length() -> int:
        return 8 * (take(5) + 1) if small else 1 + take((9, 13, 18, 30)[take(2)])

    height, ratio = length(), take(3)
    ratios = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
    width = height * ratios[ratio][0] // ratios[ratio][1] if ratio else length()
    return height, width


def use_heif() -> None:
    """Let Pillow read HEIC.

    Raises:
        ValueError: pillow-heif is not installed.
    """
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise ValueError('HEIC needs another package: pip install "fcmae[heif]"') from None
    register_heif_opener()

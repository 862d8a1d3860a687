"""A plugin for pydicom: JPEG of 12 bits, lossless JPEG, JPEG-LS and JPEG 2000 by imagecodecs, a plain dependency.

The names are those that pydicom asks of a plugin.
"""

from typing import Any

import imagecodecs
import numpy as np
from pydicom import uid

from fcmae.data.reading.codecs import jpeg2000_size

LABEL = "imagecodecs"
JPEG = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1)
JPEG_LS = (uid.JPEGLSLossless, uid.JPEGLSNearLossless)
JPEG_2000 = (uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K)
FRAMES = (*(0xC0, 0xC1, 0xC2, 0xC3), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7)
"""Markers of a frame's header, JPEG-LS's the last."""
END = b"\xff\xd9"
DECODER_DEPENDENCIES = dict.fromkeys((*JPEG, *JPEG_LS, *JPEG_2000), ("imagecodecs",))


def is_available(syntax: str) -> bool:
    """Whether the build of imagecodecs has the codec."""
    codec = "JPEG8" if syntax in JPEG else "JPEGLS" if syntax in JPEG_LS else "JPEG2K" if syntax in JPEG_2000 else ""
    return bool(codec) and getattr(imagecodecs, codec).available


def decode_frame(data: bytes, runner: Any) -> bytes:
    """One frame, in the byte order of the machine; ``runner`` is told its depth and color space."""
    _check_own_size(data, runner)
    if runner.transfer_syntax in JPEG_LS:
        if not data.rstrip(b"\0").endswith(END):
            raise ValueError("truncated")  # the decoder takes seconds to find out
        array = imagecodecs.jpegls_decode(data)
    elif runner.transfer_syntax in JPEG_2000:
        array = imagecodecs.jpeg2k_decode(data)
        if runner.photometric_interpretation in ("YBR_ICT", "YBR_RCT"):
            runner.set_option("photometric_interpretation", "RGB")
    else:
        as_stored = "RGB" if runner.samples_per_pixel == 3 else None  # pydicom converts colors itself
        array = imagecodecs.jpeg8_decode(data, colorspace=as_stored, outcolorspace=as_stored)
    runner.set_option("bits_allocated", 8 * array.dtype.itemsize)
    runner.set_option("planar_configuration", 0)
    if runner.pixel_representation == 1 and array.dtype.kind == "u":
        array = array.view(np.dtype(f"i{array.dtype.itemsize}"))
    return array.tobytes()


def _check_own_size(data: bytes, runner: Any) -> None:
    """ValueError unless the codestream has the frame's size: what it promises would be allocated."""
    if runner.transfer_syntax in JPEG_2000:
        found = jpeg2000_size(data)
        size = None if found is None else found[:2]
    else:
        size = jpeg_size(data)
    if size != (runner.rows, runner.columns):
        raise ValueError(f"a frame of {size} pixels where {runner.rows}×{runner.columns} belong")


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Height and width in the header of a JPEG of any kind, JPEG-LS among them; None if it is damaged."""
    at = 2
    while data.startswith(b"\xff\xd8") and at + 9 <= len(data) and data[at] == 0xFF:
        if data[at + 1] in FRAMES:
            return int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
        at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None

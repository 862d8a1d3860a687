"""DICOM images: stored values, rescaled, then as the file's window shows them, or as numbers for a value range.

Of the patient nothing is read: only the elements that describe pixels are parsed, and pydicom's own messages, which
may quote others, are not passed on.
"""

import contextlib
import os
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fcmae.data.pixel_reading import PixelReading
from fcmae.data.reading import limits
from fcmae.data.reading.dicom_values import Look, look_of
from fcmae.data.reading.needs import needed
from fcmae.data.reading.opened import Opened, Window
from fcmae.data.stored import ImageRef

AT, MAGIC = 128, b"DICM"
HEAD = 2048
"""Bytes within which the transfer syntax is stated."""
DESCRIPTION = (
    *("SOPClassUID", "Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    *("VOILUTSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("RedPaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData"),
    *("GreenPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableData"),
    *("BluePaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableData"),
    *("SegmentedRedPaletteColorLookupTableData", "SegmentedGreenPaletteColorLookupTableData"),
    "SegmentedBluePaletteColorLookupTableData",
)
GRAY, COLOR = ("MONOCHROME1", "MONOCHROME2"), ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


class Frames(NamedTuple):
    """Where the channels of one image are, and what its stored values mean."""

    per_plane: int
    """Frames that are the channels of one image."""
    look: Look
    is_palette: bool


def open_dicom(image: ImageRef, reading: PixelReading) -> Opened:
    """The frames of a DICOM file are planes, or the channels of one image with ``--data.stack channels``.

    Args:
        image: the file.
        reading: with a value range, values are those after rescaling (Hounsfield units in CT); without one, and where
            the file has a window, they are uint8 as the window shows them.

    Raises:
        ValueError: damaged, too large, no image, or compressed by a codec that is not installed.
    """
    pydicom = needed("pydicom", "dicom", "DICOM")
    with _without_quoting("its description"):
        described, size = _description(pydicom, image)
        head = {name: described.get(name) for name in ("Rows", "Columns", "PhotometricInterpretation")}
        height, width = int(head["Rows"] or 0), int(head["Columns"] or 0)
        bits = int(described.get("BitsAllocated") or 0)
        samples, count = int(described.get("SamplesPerPixel") or 1), int(described.get("NumberOfFrames") or 1)
        encoding = str(head["PhotometricInterpretation"] or "")
    if not height or not width or not bits:
        raise ValueError("a DICOM file that holds no image")
    if encoding not in (*GRAY, *COLOR, "PALETTE COLOR") or (samples == 1) != (encoding not in COLOR):
        raise ValueError(f"{samples} samples of {encoding or 'no color space'} are not read from DICOM files")
    is_palette = encoding == "PALETTE COLOR"
    channels = 3 if is_palette else samples
    per_plane = count if _are_channels(count, channels, reading) else 1
    limits.check_size(height, width, channels * per_plane * -(-bits // 8), reading.max_pixels)
    _check_codec(pydicom, described)
    if not described.file_meta.TransferSyntaxUID.is_encapsulated:
        subsampled = 2 if encoding == "YBR_FULL_422" else samples
        limits.check_plausible(count * height * width * subsampled * bits // 8, size, 1)
    with _without_quoting("its description"):
        look = look_of(described, reading.value_range is None and encoding in GRAY)
    frames = Frames(per_plane, look, is_palette)
    decode = partial(_decode, image, frames)
    opened = Opened(
        height, width, channels * per_plane, np.dtype(np.uint8), decode,
        is_color=encoding not in GRAY and per_plane == 1, planes=count // per_plane, windowed=True,
        mask=partial(_there, image, frames) if look.padding is not None and look.is_windowed else None,
    )  # fmt: skip
    return _with_type(opened, described, look, reading)


def _with_type(opened: Opened, described: Any, look: Look, reading: PixelReading) -> Opened:
    """The same with the type of its values. A file of one image is decoded for that, and keeps it."""
    if opened.planes == 1:
        array = opened.decode(1, None, 0)
        opened.decode = partial(_part_of, array)
        opened.dtype = array.dtype
        if opened.mask is not None:
            opened.mask = partial(_part_of_mask, opened.mask(None, 0))
    elif look.is_windowed:
        opened.dtype = np.dtype(np.uint8)
    else:
        opened.dtype = opened.decode(1, Window(0, 0, 1, 1), opened.planes // 2).dtype
    if opened.dtype.kind == "u" and not look.is_windowed and not opened.is_color:
        opened.bits = min(int(described.get("BitsStored") or 0), 8 * opened.dtype.itemsize)
    return opened


def _are_channels(count: int, channels: int, reading: PixelReading) -> bool:
    if reading.stack != "auto":
        return reading.stack == "channels"
    return count > 1 and count * channels == reading.in_chans


def _description(pydicom: Any, image: ImageRef) -> tuple[Any, int]:
    """The elements that describe the pixels, and the length of the file in bytes."""
    with image.open("rb") as file:
        if pydicom.uid.DeflatedExplicitVRLittleEndian.encode() in file.read(HEAD):  # of unknown length
            raise ValueError("deflated DICOM files are not read")
        file.seek(0)
        described = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(DESCRIPTION))
        return described, file.seek(0, os.SEEK_END)


def _check_codec(pydicom: Any, described: Any) -> None:
    """ValueError if nothing that is installed can decode the pixels."""
    from fcmae.data.reading import dicom_codecs

    syntax = described.file_meta.get("TransferSyntaxUID")
    try:
        decoder = pydicom.pixels.get_decoder(syntax)
    except (NotImplementedError, TypeError):  # pydicom's for a syntax of no image; for none, or several of them
        raise ValueError("its transfer syntax is not one of an image, or pydicom cannot decode it") from None
    if syntax in dicom_codecs.DECODER_DEPENDENCIES:
        with contextlib.suppress(ValueError):  # it is known already
            decoder.add_plugin(dicom_codecs.LABEL, (dicom_codecs.__name__, dicom_codecs.decode_frame.__name__))
    if not decoder.is_available:
        raise ValueError(
            f"compressed as {syntax.name}, which needs another package: pip install pylibjpeg pylibjpeg-libjpeg "
            "pylibjpeg-openjpeg"
        )


def _frame(image: ImageRef, frames: Frames, number: int) -> tuple[np.ndarray, Any]:
    """Stored values [C, H, W] of one frame, and the elements that describe it."""
    import pydicom

    described = pydicom.Dataset()
    with _without_quoting("its pixels"):
        tags = [pydicom.tag.Tag(name) for name in DESCRIPTION]
        with image.open("rb") as file:
            array = pydicom.pixels.pixel_array(file, index=number, ds_out=described, specific_tags=tags)
        if frames.is_palette:
            array = pydicom.pixels.apply_color_lut(array, described)
            array = array if array.dtype == np.uint8 else (array >> 8).astype(np.uint8)  # of 16 bits for screens of 8
    return array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0), described


def _numbers(plane: int, frames: Frames) -> range:
    return range(plane * frames.per_plane, (plane + 1) * frames.per_plane)


def _decode(image: ImageRef, frames: Frames, _reduce: int, window: Window | None, plane: int) -> np.ndarray:
    parts = []
    for number in _numbers(plane, frames):
        array, described = _frame(image, frames, number)
        if len(array) == 1 and not frames.is_palette:
            with _without_quoting("its window or rescaling"):
                array = frames.look.shown(array, described, number)
        parts.append(_part(array, window))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _there(image: ImageRef, frames: Frames, window: Window | None, plane: int) -> np.ndarray:
    """bool [1, h, w], False where every frame of an image has the padding value."""
    found = [~frames.look.padded(_frame(image, frames, number)[0]) for number in _numbers(plane, frames)]
    return _part(np.any(found, axis=0), window)


def _part_of(array: np.ndarray, _reduce: int, window: Window | None, _plane: int) -> np.ndarray:
    return _part(array, window)


def _part_of_mask(mask: np.ndarray, window: Window | None, _plane: int) -> np.ndarray:
    return _part(mask, window)


def _part(array: np.ndarray, window: Window | None) -> np.ndarray:
    if window is None:
        return array
    return array[:, window.top : window.top + window.height, window.left : window.left + window.width]


@contextlib.contextmanager
def _without_quoting(what: str) -> Iterator[None]:
    """Errors of pydicom and of decoders may quote elements of the file; ours are passed on."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        if type(error) is ValueError and str(error).startswith("deflated"):
            raise
        raise ValueError(f"damaged or truncated: {what} cannot be read ({type(error).__name__})") from None

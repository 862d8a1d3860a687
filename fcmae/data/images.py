"""Reads image files as tensors at their own bit depth. Every failure raises UnreadableImageError."""

import contextlib
import io
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import tifffile
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from fcmae.data.jpeg_header import read_frame
from fcmae.data.sources.first_bytes import recognized

try:
    import simplejpeg
except ImportError:  # no wheel for this Python version yet: Pillow decodes all JPEGs
    simplejpeg = None

EXTENSIONS = frozenset(
    [
        ".bmp",
        ".gif",
        ".jfif",
        ".jp2",
        ".jpeg",
        ".jpg",
        ".npy",
        ".pbm",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".tga",
        ".tif",
        ".tiff",
        ".webp",
    ]
)
JPEG, TIFF, ARRAY = (".jpg", ".jpeg", ".jfif"), (".tif", ".tiff"), (".npy",)
JPEG_SCALES = (1, 2, 4, 8)  # reduction factors that the JPEG decoder applies at no extra cost
ORIENTATION, LYING = 0x0112, (5, 6, 7, 8)  # the EXIF tag, and its values that swap height and width
PIL_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


class UnreadableImageError(Exception):
    """The file has no usable image; the message gives its path and the reason."""


@dataclass
class ImageFile:
    """An image of known size, possibly not decoded yet. Picklable, for worker processes."""

    path: Path
    height: int
    width: int
    _decode: Callable[[int], Tensor]

    def decode(self, reduce: int = 1) -> Tensor:
        """The pixels, as :func:`read_image` describes them.

        Args:
            reduce: largest acceptable reduction of height and width. A JPEG is then decoded at 1/2, 1/4 or 1/8 of its
                size, which is cheap. Other files are decoded at full size.

        Raises:
            UnreadableImageError: damaged, truncated, or with an unsupported number of channels.
        """
        with _one_error(self.path):
            return self._decode(reduce)


def decoded(file: ImageFile) -> ImageFile:
    """The same image, decoded at full size."""
    return _in_memory(file.path, file.decode())


def open_image(path: str | Path, in_chans: int = 3) -> ImageFile:
    """Open an image file, with its EXIF orientation applied; a JPEG is not decoded yet.

    Raises:
        UnreadableImageError: damaged, empty, of an unsupported format, or with an unsupported number of channels.
    """
    path = Path(path)
    with _one_error(path):
        if not stat.S_ISREG(os.stat(path).st_mode):  # to open a FIFO is to wait for ever
            raise ValueError("is no regular file")
        ending = _ending(path)
        if ending in JPEG and in_chans in PIL_MODES:
            return _open_jpeg(path, in_chans)
        return _in_memory(path, _read(path, ending, in_chans))


def read_image(path: str | Path, in_chans: int = 3) -> Tensor:
    """Read an image with ``in_chans`` channels, with its EXIF orientation applied.

    Palette, CMYK, bilevel and YCbCr images are converted; an alpha channel is dropped unless ``in_chans`` is 2 or 4;
    gray images are repeated for 3 channels, and color images are converted to gray for 1. Images of more than 8 bits
    keep their depth. More than four channels, or 16-bit color, require TIFF or .npy ([H, W, C] or [C, H, W]); the
    pages of a TIFF are its channels.

    Returns:
        [in_chans, H, W]: uint8, or float32 in 0 … 1 for images of more than 8 bits. Unsigned 16-bit images are divided
        by 65535; signed, 32-bit and floating-point images outside 0 … 1 are rescaled by their own minimum and
        maximum. 16-bit color PNGs are reduced to 8 bits, the limit of Pillow.

    Raises:
        UnreadableImageError: damaged, truncated, empty, of an unsupported format, or with an unsupported number of
            channels.
    """
    return open_image(path, in_chans).decode()


@contextlib.contextmanager
def _one_error(path: Path) -> Iterator[None]:
    """Convert decoder errors, anything from OSError to IndexError and struct.error, to UnreadableImageError."""
    try:
        yield
    except MemoryError:  # says nothing about the file
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImageError(f"{path}: {reason.replace(repr(str(path)), 'it')}") from error


def _ending(path: Path) -> str:
    """The ending that says how to read a file. If it is missing, unknown or wrong, the first bytes decide.

    Pillow looks at them by itself, so that the endings of its formats are right for all of them.
    """
    named, found = path.suffix.lower(), recognized(path)
    if found is not None and (named not in EXTENSIONS or {named, found} & {*TIFF, *ARRAY}):
        return found
    return named


def _read(path: Path, ending: str, in_chans: int) -> Tensor:
    if ending in ARRAY:
        array = np.load(path, allow_pickle=False)
        return _from_array(array, in_chans, color=array.ndim == 3 and array.shape[2] in (3, 4))
    if ending in TIFF:
        return _from_tiff(path, in_chans)
    return _from_pil(path, in_chans)


def _open_jpeg(path: Path, in_chans: int) -> ImageFile:
    """Use Pillow where the header is ambiguous, and the faster simplejpeg where both decode the same pixels."""
    data = path.read_bytes()
    frame = read_frame(data)
    fast = frame is not None and frame.channels in (1, 3) and in_chans == 3 and simplejpeg is not None
    if frame and frame.is_alone and frame.height * frame.width <= (Image.MAX_IMAGE_PIXELS or 0):
        height, width = frame.height, frame.width
    else:
        with Image.open(io.BytesIO(data)) as header:
            orientation = header.getexif().get(ORIENTATION, 1)
            fast = fast and header.format == "JPEG" and orientation == 1
            width, height = reversed(header.size) if orientation in LYING else header.size
    # other kinds of frames cannot be decoded at a reduced size
    return ImageFile(path, height, width, partial(_decode_jpeg, data, frame and frame[:2], fast, in_chans))


def _decode_jpeg(data: bytes, reducible_hw: tuple[int, int] | None, fast: bool, in_chans: int, reduce: int) -> Tensor:
    factor = max(n for n in JPEG_SCALES if n <= max(1, reduce)) if reducible_hw else 1
    if fast and reducible_hw:
        least = [-(-length // factor) for length in reducible_hw]
        with contextlib.suppress(ValueError):  # simplejpeg is strict: Pillow may read files that it rejects
            pixels = simplejpeg.decode_jpeg(data, min_height=least[0], min_width=least[1], min_factor=factor)
            return torch.from_numpy(pixels).permute(2, 0, 1)
    return _from_pil(io.BytesIO(data), in_chans, factor)


def _in_memory(path: Path, image: Tensor) -> ImageFile:
    return ImageFile(path, image.shape[1], image.shape[2], partial(_at_full_size, image))


def _at_full_size(image: Tensor, _reduce: int) -> Tensor:
    return image


def _from_tiff(path: Path, in_chans: int) -> Tensor:
    """Read with Pillow, which knows all color encodings, unless it would lose bit depth, channels or pages."""
    with tifffile.TiffFile(path) as tiff:
        series, page = tiff.series[0], tiff.pages.first
        is_stack = bool(set(series.axes) - set("YXS"))  # equal-sized pages; overviews and thumbnails are other series
        is_deep = page.samplesperpixel > 1 and page.bitspersample > 8
        if in_chans in PIL_MODES and not is_stack and not is_deep and _pillow_opens(path):
            return _from_pil(path, in_chans)
        encoding = tifffile.PHOTOMETRIC(page.photometric).name
        if encoding not in ("RGB", "MINISBLACK"):
            raise ValueError(f"a TIFF of several pages or over 8 bits must be RGB or MINISBLACK, not {encoding}")
        return _from_array(series.asarray(), in_chans, color=encoding == "RGB")


def _pillow_opens(path: Path) -> bool:
    try:
        with Image.open(path):
            return True
    except Image.UnidentifiedImageError:  # Pillow has no mode for it: float16, float64, two channels
        return False


def _from_pil(file: Path | io.BytesIO, in_chans: int, reduce: int = 1) -> Tensor:
    if in_chans not in PIL_MODES:
        raise ValueError(f"{in_chans} channels come from TIFF or .npy files only")
    with Image.open(file) as opened:
        if reduce > 1 and opened.format == "JPEG":  # decodes at the nearest of 1/2, 1/4, 1/8 that is not smaller
            opened.draft(opened.mode, (max(1, opened.width // reduce), max(1, opened.height // reduce)))
        image = ImageOps.exif_transpose(opened)
        image.load()  # load now, so that a truncated file fails here
        if image.mode.startswith("I") or image.mode == "F":
            array = np.asarray(image)
            # some versions of Pillow return 16-bit PNGs as 32-bit integers
            return _from_array(array.astype(np.uint16) if opened.format == "PNG" else array, in_chans, color=False)
        if image.mode in ("P", "PA"):
            image = image.convert("RGBA")  # converting transparent palette entries directly to RGB is wrong
        array = np.array(image.convert(PIL_MODES[in_chans]))
    return torch.from_numpy(array).view(*array.shape[:2], in_chans).permute(2, 0, 1)


def _from_array(array: np.ndarray, in_chans: int, color: bool) -> Tensor:
    """Convert an array; with ``color`` three channels are RGB and a fourth is alpha."""
    if color and in_chans == 1:
        return TF.rgb_to_grayscale(_from_array(array, 3, color))
    array = _channels_first(np.asarray(array), in_chans, color)
    if array.size == 0:
        raise ValueError(f"an image of {array.shape[1]}×{array.shape[2]} pixels")
    if array.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(array))
    if array.dtype == np.bool_:
        return torch.from_numpy(array.astype(np.float32))
    if array.dtype == np.uint16:
        return torch.from_numpy(array.astype(np.float32) / (2**16 - 1))
    if np.issubdtype(array.dtype, np.number) and not np.issubdtype(array.dtype, np.complexfloating):
        return torch.from_numpy(_into_unit_range(array.astype(np.float32)))
    raise ValueError(f"unsupported dtype {array.dtype}")


def _channels_first(array: np.ndarray, in_chans: int, color: bool) -> np.ndarray:
    """[H, W], [H, W, C] or [C, H, W] → [in_chans, H, W]."""
    if array.ndim == 2:
        array = array[None]
    elif array.ndim == 3 and array.shape[2] in (in_chans, 1, 3, 4) and array.shape[0] != in_chans:
        array = array.transpose(2, 0, 1)
    elif array.ndim == 3 and array.shape[2] == in_chans and array.shape[0] == in_chans:
        array = array.transpose(2, 0, 1)  # ambiguous: assume channels last, which is more common
    if array.ndim == 3 and array.shape[0] == in_chans:
        return array
    if array.ndim == 3 and array.shape[0] == 1 and in_chans == 3:
        return array.repeat(3, axis=0)
    if array.ndim == 3 and array.shape[0] == 4 and in_chans == 3 and color:
        return array[:3]
    raise ValueError(f"values of shape {list(array.shape)} do not give {in_chans} channels (model.in_chans)")


def _into_unit_range(array: np.ndarray) -> np.ndarray:
    if not np.isfinite(array).all():
        raise ValueError("holds values that are not finite")
    low, high = float(array.min()), float(array.max())
    if low >= 0 and high <= 1:
        return array
    return (array - low) / max(high - low, float(np.finfo(np.float32).tiny))

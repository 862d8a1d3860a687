"""Opens image files and returns the network's channels in 0 … 1. Every failure raises UnreadableImageError."""

import contextlib
import io
import os
import re
import stat
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from fcmae.data.pixel_reading import PixelReading
from fcmae.data.reading import codecs, dicom, jpeg, limits, nifti, npy, ome_zarr, pillow, tiff, tiff_levels, values
from fcmae.data.reading.channels import Channels, fitted
from fcmae.data.reading.opened import Opened, UnreadableImageError, Window
from fcmae.data.stored import Held, ImageRef, Stored
from fcmae.data.zarr_folders import metadata_of
from fcmae.errors import StoreError, in_a_line

__all__ = ["ImageFile", "UnreadableImageError", "decoded", "decoded_once", "open_image", "read_image"]

PIL_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
MIDDLE = 4096  # pixels
IN_MEMORY = re.compile(r"<_io\.BytesIO object at 0x[0-9a-f]+>")
SNIFFED = 352  # bytes that tell what a file is


@dataclass
class ImageFile:
    """An image of known size, possibly not decoded yet. Picklable, for worker processes."""

    path: ImageRef
    opened: Opened
    reading: PixelReading
    channels: Channels
    _own_pairs: dict[int, values.Pairs | None] = field(default_factory=dict)

    @property
    def height(self) -> int:
        """Upright, in pixels."""
        return self.opened.height

    @property
    def width(self) -> int:
        """Upright, in pixels."""
        return self.opened.width

    @property
    def planes(self) -> int:
        """Images in the file (pages of a stack), all of one size."""
        return self.opened.planes

    def decode(self, reduce: int = 1) -> Tensor:
        """The whole (first) image, as :func:`read_image` describes it.

        Args:
            reduce: largest acceptable reduction of height and width. A JPEG is then decoded at 1/2, 1/4 or 1/8 of its
                size, which is cheap. Other files are decoded at full size.

        Raises:
            UnreadableImageError: damaged, truncated, or larger than ``max_pixels``.
        """
        with _one_error(self.path):
            return self._in_unit_range(self._own(1 if self.opened.windowed else reduce, None, 0), 0, None)

    def crop(self, crop: tuple[int, int, int, int], reduce: int = 1, plane: int = 0) -> Tensor:
        """(top, left, height, width) of an image, with ``reduce`` as for :meth:`decode`.

        Of a tiled TIFF and of a .npy file only that part is read, from an overview if that has twice the resolution
        needed. Raises as :meth:`decode`.
        """
        with _one_error(self.path):
            if self.opened.windowed:
                window = Window(*crop)
                return self._in_unit_range(self._own(self._reduction(window, reduce), window, plane), plane, window)
            array = self._own(reduce, None, plane)
            longer = 1 if self.height > self.width else 2
            decoded_to, full = array.shape[longer], max(self.height, self.width)
            reduced = min(jpeg.SCALES, key=lambda n: abs(n * decoded_to - full))
            top, left, height, width = (round(length / reduced) for length in crop)
            height, width = min(height, array.shape[1] - top), min(width, array.shape[2] - left)
            part = array[:, top : top + height, left : left + width]
            return self._in_unit_range(part, plane, Window(top, left, height, width))

    def own_values(self, window: Window | None, plane: int = 0) -> tuple[np.ndarray, np.ndarray | None]:
        """The file's own values in the network's channels, [in_chans, h, w], and where they are missing.

        For measuring a set before its value range is known. Raises as :meth:`decode`.
        """
        with _one_error(self.path):
            array = self._own(1, window if self.opened.windowed else None, plane)
            if window is not None and not self.opened.windowed:
                array = array[:, window.top : window.top + window.height, window.left : window.left + window.width]
            return self.channels(array), self._missing(array, window, plane)

    @property
    def nodata(self) -> float | None:
        """The value of missing pixels: the setting, or what the file says."""
        return self.opened.nodata if self.reading.nodata is None else self.reading.nodata

    def _reduction(self, window: Window, reduce: int) -> int:
        """By how much smaller a window is read; 8-bit images only where it is too large otherwise, as ever."""
        found = tiff_levels.level_to_read(self.opened.reductions, reduce)
        if found > 1 and self.opened.dtype == np.uint8:
            with contextlib.suppress(ValueError):
                self._check_size(window.height, window.width)
                return 1
        return found

    def _check_size(self, height: int, width: int) -> None:
        size = self.opened.channels * self.opened.dtype.itemsize
        limits.check_size(height, width, size, self.reading.max_pixels)

    def _own(self, reduce: int, window: Window | None, plane: int) -> np.ndarray:
        """Decoded, with the channels of the file."""
        height, width = (window.height, window.width) if window else (self.height, self.width)
        if self.opened.windowed:  # others have checked their size when they were opened
            self._check_size(-(-height // reduce), -(-width // reduce))
        array = self.opened.decode(reduce, window, plane)
        return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))

    def _missing(self, array: np.ndarray, window: Window | None, plane: int) -> np.ndarray | None:
        """Where this window of the file, [C, h, w], has no value in the network's channels; None: nowhere."""
        picked = self.channels.picked(array)
        found = values.missing(picked, self.nodata)
        if self.opened.mask is not None and not (there := self._masked(window, plane)).all():
            found = np.broadcast_to(~there, picked.shape) | (False if found is None else found)
        return self.channels.spread(found)

    def _masked(self, window: Window | None, plane: int) -> np.ndarray:
        """The part of the file's own mask."""
        assert self.opened.mask is not None
        part = self.opened.mask(window, plane)
        if window is None or part.shape[1:] == window[2:]:
            return part
        return part[:, window.top : window.top + window.height, window.left : window.left + window.width]

    def _in_unit_range(self, array: np.ndarray, plane: int, window: Window | None) -> Tensor:
        """This window of the file, [C, h, w] → the network's channels, uint8 or float32 in 0 … 1."""
        pairs, full_scale = self.reading.pairs(), self.opened.full_scale
        if pairs is None and full_scale is None:
            pairs = self._stretch(plane)
        gone = self._missing(array, window, plane)
        return values.in_unit_range(self.channels(array), gone, pairs, full_scale)

    def _stretch(self, plane: int) -> values.Pairs | None:
        """From the smallest to the largest value of the file (of the middle of a large one), the last resort."""
        if plane not in self._own_pairs:
            rows, columns = min(self.height, MIDDLE), min(self.width, MIDDLE)
            middle = Window((self.height - rows) // 2, (self.width - columns) // 2, rows, columns)
            window = middle if self.opened.windowed else None
            array = self._own(1, window, plane)
            gone = self._missing(array, window, plane)
            self._own_pairs[plane] = values.own_pairs(self.channels(array), gone)
        return self._own_pairs[plane]


def decoded(file: ImageFile) -> ImageFile:
    """The same image, decoded at full size; of a stack all of its planes."""
    with _one_error(file.path):
        planes = np.stack([file._own(1, None, plane) for plane in range(file.planes)])
        return replace(file, opened=replace(file.opened, decode=pillow.in_memory(planes).decode, windowed=False))


def decoded_once(file: ImageFile) -> ImageFile:
    """The same image. What was decoded for one crop serves the next ones; files read by windows stay as they are."""
    opened = file.opened
    return file if opened.windowed else replace(file, opened=replace(opened, decode=_Remembered(opened.decode)))


@dataclass
class _Remembered:
    """A decoder that keeps its results, one for each plane and reduction."""

    decode: Callable[[int, Window | None, int], np.ndarray]
    results: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)

    def __call__(self, reduce: int, window: Window | None, plane: int) -> np.ndarray:
        key = plane, max(factor for factor in jpeg.SCALES if factor <= max(1, reduce))
        if key not in self.results:
            self.results[key] = self.decode(reduce, window, plane)
        return self.results[key]


def open_image(path: str | ImageRef, reading: PixelReading | int = 3) -> ImageFile:
    """Open an image file by its content, with its orientation applied; JPEG, TIFF and .npy are not decoded yet.

    Args:
        path: the file, or another place of its bytes; its ending does not matter.
        reading: what is read of it; a number means as many channels.

    Raises:
        UnreadableImageError: damaged, empty, too large, of an unsupported format, or with channels that do not fit.
    """
    path, reading = Path(path) if isinstance(path, str) else path, PixelReading.of(reading)
    with _one_error(path):
        opened = _checked(path, reading)
        return ImageFile(path, opened, reading, fitted(opened, reading))


def open_all_channels(path: str | ImageRef, reading: PixelReading | int = 3) -> ImageFile:
    """As :func:`open_image`, with all channels that the file has; ``reading`` says what pages are.

    A value range only says that the numbers of a DICOM file are wanted, not what its window shows.
    """
    path = Path(path) if isinstance(path, str) else path
    reading = replace(PixelReading.of(reading), bands=None)
    with _one_error(path):
        opened = _checked(path, reading)
        reading = replace(reading, in_chans=opened.channels, value_range=None)
        return ImageFile(path, opened, reading, fitted(opened, reading))


def read_image(path: str | ImageRef, reading: PixelReading | int = 3) -> Tensor:
    """Read an image, with its orientation applied.

    The channels are the file's own. Palette, CMYK and bilevel images are converted; opacity is dropped unless the
    network takes as many channels; one gray channel is repeated for three, and color becomes gray for one; ``bands``
    picks any. The pages of a TIFF are its channels or images (``stack``).

    Returns:
        [in_chans, H, W]: uint8, or float32 in 0 … 1 with NaN where there is no value. ``value_range`` is mapped to
        0 … 1. Without it, 8-bit images stay as they are, unsigned integers of up to 16 bits are divided by their
        largest value, and each channel of other images is stretched from its minimum to its maximum, unless it is in
        0 … 1 already.

    Raises:
        UnreadableImageError: as for :func:`open_image`.
    """
    return open_image(path, reading).decode()


def _checked(path: ImageRef, reading: PixelReading) -> Opened:
    if isinstance(path, Path):
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not (stat.S_ISDIR(mode) and metadata_of(path)):  # opening a FIFO would block
            raise ValueError("is not a regular file")
    opened = _open(path, reading)
    values.check_dtype(opened)
    return opened


def _open(path: ImageRef, reading: PixelReading) -> Opened:
    if isinstance(path, Path) and path.is_dir():
        return ome_zarr.open_zarr(path, reading)
    with path.open("rb") as file:
        start = file.read(SNIFFED)
        is_dicom = start[dicom.AT :].startswith(dicom.MAGIC)  # before TIFF, whose header may stand before a slide's
        is_scene = not is_dicom and start.startswith((*tiff.MAGIC, npy.MAGIC))
        in_parts = is_scene or is_dicom or nifti.is_nifti(start) or start.startswith(ome_zarr.ZIP)
        is_local, is_far = (True, False) if isinstance(path, Path) else (bool(path.region()), path.has_parts())
        if (in_parts and is_local) or (is_scene and is_far):
            data = b""
        else:
            data = path.read_bytes() if is_far else start + file.read()
    if in_parts and isinstance(path, Stored) and data:
        path = Held(path, data)
    if is_dicom:
        return dicom.open_dicom(path, reading)
    if start.startswith(tiff.MAGIC):
        return tiff.open_tiff(path, reading)
    if start.startswith(npy.MAGIC):
        return npy.open_npy(path, reading)
    if start.startswith(ome_zarr.ZIP):
        return ome_zarr.open_zarr(path, reading)
    if nifti.is_nifti(start):
        return nifti.open_nifti(path, reading)
    if start.startswith(jpeg.START):
        return jpeg.open_jpeg(data, reading.max_pixels, prefer_fast=reading.in_chans == 3 and reading.bands is None)
    deep = None
    if start.startswith(codecs.PNG):
        deep = codecs.deep_png(data, reading.max_pixels)
    elif start.startswith(codecs.JXL):
        deep = codecs.open_jxl(data, reading.max_pixels)
    elif start.startswith(codecs.J2K):
        deep = codecs.deep_jpeg2000(data, reading.max_pixels)
    elif start[4:8] == b"ftyp" and start[8:12] in codecs.AVIF_BRANDS:
        deep = codecs.deep_avif(data, reading.max_pixels)
    elif start[4:8] == b"ftyp" and start[8:12] in codecs.HEIF_BRANDS:
        codecs.use_heif()
    return deep or pillow.open_pillow(io.BytesIO(data), len(data), reading.max_pixels)


@contextlib.contextmanager
def _one_error(path: ImageRef) -> Iterator[None]:
    """Convert decoder errors, anything from OSError to IndexError and struct.error, to UnreadableImageError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # libraries warn of every oddity that they can read nevertheless
            yield
    except (UnreadableImageError, StoreError):
        raise
    except MemoryError:  # says nothing about the file
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = IN_MEMORY.sub("it", reason.replace(repr(str(path)), "it"))
        raise UnreadableImageError(in_a_line(f"{path}: {reason}")) from error

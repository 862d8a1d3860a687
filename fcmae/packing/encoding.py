"""One image → the bytes that go into a shard: smaller, in a format that loads fast, opened once more as a check."""

import errno
import io
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from fcmae.data.crops import resized
from fcmae.data.images import ImageFile, UnreadableImageError, open_all_channels
from fcmae.data.pixel_reading import PixelReading
from fcmae.data.sources.first_bytes import ending_for
from fcmae.data.sources.image_set import ImageSet
from fcmae.data.stored import ImageRef, Stored
from fcmae.data.unreadable import Unreadable
from fcmae.errors import UserError, in_a_line
from fcmae.packing.lossless import as_tiff, shrunk

# errno of what is wrong with one file, and not with the storage; None: not of the system at all
OF_THE_FILE = (None, errno.ENOENT, errno.EACCES, errno.EPERM)
Format = Literal["jpeg", "png", "webp"]
ENDINGS: dict[Format, str] = {"jpeg": ".jpg", "png": ".png", "webp": ".webp"}
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
OVERSIZE = 2
"""A JPEG is decoded at the reduced size that is still so many times the size that is written."""


@dataclass(frozen=True)
class Encoding:
    """How images are written."""

    short_side: int
    """Pixels at most."""
    format: Format = "jpeg"
    quality: int = 92
    """Of JPEG and WebP."""

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of an image in the shard."""
        scale = self.short_side / min(height, width)
        if scale >= 1:
            return height, width
        return max(1, round(height * scale)), max(1, round(width * scale))


class Packed(NamedTuple):
    """An image as it is written."""

    ending: str
    data: bytes


@dataclass(frozen=True)
class Bytes(Stored):
    """An image in memory."""

    called: str
    data: bytes

    def __str__(self) -> str:
        return self.called

    @property
    def name(self) -> str:
        """The last part of its name."""
        return self.called.rpartition("/")[2]

    def read_bytes(self) -> bytes:
        """All of it."""
        return self.data


class PackedImages(Dataset[Packed | Unreadable]):
    """The images of a set from ``first`` on, encoded."""

    def __init__(self, images: ImageSet, reading: PixelReading, encoding: Encoding, first: int = 0) -> None:
        self.images, self.reading, self.encoding, self.first = images, reading, encoding, first

    def __len__(self) -> int:
        return len(self.images) - self.first

    def __getitem__(self, number: int) -> Packed | Unreadable:
        place = self.first + number
        image = self.images[place]
        try:
            return packed(image, self.reading, self.encoding)
        except UnreadableImageError as error:
            reason = " ".join(str(error).split())
            if isinstance(error.__cause__, OSError) and error.__cause__.errno not in OF_THE_FILE:
                raise UserError(f"{reason}; run the same command again to go on") from None
            return Unreadable(self.images.name(place), reason)


def packed(image: ImageRef, reading: PixelReading, encoding: Encoding) -> Packed:
    """Encode one image.

    8-bit gray and color become ``encoding.format``; with opacity PNG instead of JPEG. An image that is small enough and
    in that format keeps its bytes. All others (deep, several bands or planes, pixels without data) become a TIFF
    that keeps their values.

    Args:
        image: where its bytes are.
        reading: the value of missing pixels, and the largest image; pages of a TIFF are images.
        encoding: size and format.

    Raises:
        UnreadableImageError: damaged, or it cannot be written so that it reads as before.
    """
    file = open_all_channels(image, reading)
    hw = encoding.size(file.height, file.width)
    try:
        return _plain(image, file, encoding, hw) if _is_plain(file) else _by_value(image, file, reading, hw)
    except (ValueError, OSError) as error:  # a JPEG cannot be longer than 65,500 pixels
        raise UnreadableImageError(f"{in_a_line(str(image))}: cannot be written: {error}") from error


def _by_value(image: ImageRef, file: ImageFile, reading: PixelReading, hw: tuple[int, int]) -> Packed:
    planes = [shrunk(*file.own_values(None, plane), file.nodata, hw) for plane in range(file.planes)]
    values = np.stack([plane.values for plane in planes])
    nodata = next((plane.nodata for plane in planes if plane.nodata is not None), None)
    found = Packed(".tif", as_tiff(values, nodata, file.opened.is_color, file.opened.has_alpha))
    again = _opened_again(image, found, reading, hw)
    if again.planes != file.planes:
        raise UnreadableImageError(f"{in_a_line(str(image))}: its {file.planes} images cannot be written as one TIFF")
    for plane in range(file.planes):
        array, _ = again.own_values(None, plane)
        if not np.array_equal(array, values[plane], equal_nan=array.dtype.kind == "f"):
            raise UnreadableImageError(f"{in_a_line(str(image))}: its values cannot be written as a TIFF")
    return found


def _is_plain(file: ImageFile) -> bool:
    """Eight bits, gray or color, all pixels there."""
    opened = file.opened
    colors = opened.channels - opened.has_alpha
    is_picture = colors == 1 or (colors == 3 and opened.is_color)
    has_all = file.nodata is None and opened.mask is None
    return opened.dtype in (np.uint8, np.bool_) and is_picture and has_all and opened.planes == 1


def _plain(image: ImageRef, file: ImageFile, encoding: Encoding, hw: tuple[int, int]) -> Packed:
    ending = ENDINGS[encoding.format]
    if encoding.format == "jpeg" and file.opened.has_alpha:
        ending = ENDINGS["png"]
    if hw == (file.height, file.width):
        file.decode()  # fails here if it is damaged
        data = image.read_bytes()
        if ending_for(data[:32]) == ending:
            return Packed(ending, data)
    pixels = file.decode(max(1, min(file.height // (OVERSIZE * hw[0]), file.width // (OVERSIZE * hw[1]))))
    if pixels.dtype != torch.uint8:  # bilevel
        pixels = (pixels * 255).round().to(torch.uint8)
    if pixels.shape[1:] != hw:
        pixels = resized(pixels, hw)
    array = np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
    picture = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array, MODES[array.shape[2]])
    written = io.BytesIO()
    options = {} if ending == ".png" else {"quality": encoding.quality}
    picture.save(written, {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP"}[ending], **options)
    found = Packed(ending, written.getvalue())
    _opened_again(image, found, PixelReading(), hw).decode()
    return found


def _opened_again(image: ImageRef, found: Packed, reading: PixelReading, hw: tuple[int, int]) -> ImageFile:
    """What was written, opened; UnreadableImageError if it has another size."""
    again = open_all_channels(Bytes(f"{image} as {found.ending}", found.data), reading)
    if (again.height, again.width) != hw:
        raise UnreadableImageError(
            f"{in_a_line(str(image))}: written as {again.height}×{again.width} in place of {hw[0]}×{hw[1]}"
        )
    return again

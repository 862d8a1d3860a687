"""What one file of a set says about itself, and how it looks in 16×16 pixels."""

import hashlib
from collections.abc import Set
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from fcmae.data.images import ImageFile, UnreadableImageError, open_all_channels
from fcmae.data.pixel_reading import PixelReading
from fcmae.data.reading.channels import fitted
from fcmae.data.reading.opened import Opened
from fcmae.data.sources.image_set import ImageSet
from fcmae.data.stored import ImageRef
from fcmae.data.unreadable import Unreadable

SIDE = 16
"""Of a signature, in pixels."""
MIDDLE = 2048  # pixels of a large image that stand for it
FLAT = 1e-3
"""An image whose signature varies by less, relative to its largest value, is of one color."""
CHUNK = 2**20


class Kind(NamedTuple):
    """What decides how a file is read."""

    dtype: str
    bits: int
    """Significant bits; 0: all of the dtype."""
    channels: int
    is_color: bool
    has_alpha: bool

    @property
    def is_deep(self) -> bool:
        """Whether it has more than 8 bits."""
        return self.dtype not in ("uint8", "bool")

    @property
    def colors(self) -> int:
        """Channels without opacity."""
        return self.channels - self.has_alpha

    def fits(self, in_chans: int) -> bool:
        """Whether a network of so many channels takes it, as :func:`fitted` decides."""
        as_opened = Opened(
            1, 1, self.channels, np.dtype(self.dtype), _undecoded, is_color=self.is_color, has_alpha=self.has_alpha
        )
        try:
            fitted(as_opened, PixelReading(in_chans))
        except ValueError:
            return False
        return True

    def __str__(self) -> str:
        bits = f" ({self.bits} bits)" if self.bits and self.bits != 8 * np.dtype(self.dtype).itemsize else ""
        color = " RGB" if self.is_color and self.colors == 3 else ""
        alpha = " with opacity" if self.has_alpha else ""
        return f"{self.channels} × {self.dtype}{bits}{color}{alpha}"


class Facts(NamedTuple):
    """Of a file that can be read."""

    height: int
    """Upright, in pixels."""
    width: int
    kind: Kind
    planes: int
    windowed: bool
    """A crop is read without the rest of the file."""
    nodata: float | None
    """The value that the file itself declares."""
    signature: np.ndarray | None
    """uint8 [16, 16]: gray, from the darkest to the brightest; None: the image is of one color."""
    content: bytes | None
    """A digest of its bytes, if it was asked for."""


class Surveyed(Dataset[Facts | Unreadable]):
    """The facts of each image of a set; every file is decoded, a JPEG at an eighth of its size."""

    def __init__(self, images: ImageSet, reading: PixelReading, hashed: Set[int]) -> None:
        self.images, self.reading, self.hashed = images, reading, hashed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> Facts | Unreadable:
        image = self.images[place]
        try:
            return facts_of(image, self.reading, place in self.hashed)
        except UnreadableImageError as error:
            return Unreadable(str(image), str(error))


def facts_of(image: ImageRef, reading: PixelReading, hashed: bool = False) -> Facts:
    """The facts of one image, with its digest if ``hashed``; raises UnreadableImageError."""
    file = open_all_channels(image, reading)
    opened = file.opened
    kind = Kind(opened.dtype.name, opened.bits, opened.channels, opened.is_color, opened.has_alpha)
    seen = signature(_middle(file))
    content = _digest(image) if hashed else None
    return Facts(file.height, file.width, kind, file.planes, opened.windowed, opened.nodata, seen, content)


def _middle(file: ImageFile) -> Tensor:
    """The image, or the middle of a large one that is read by windows; a JPEG reduced."""
    height, width = file.height, file.width
    if file.opened.windowed:
        height, width = min(height, MIDDLE), min(width, MIDDLE)
    box = (file.height - height) // 2, (file.width - width) // 2, height, width
    if not file.opened.windowed and file.opened.nodata is None:
        return file.decode(max(1, min(height, width) // (4 * SIDE)))
    return file.crop(box, 1, file.planes // 2)


def signature(image: Tensor) -> np.ndarray | None:
    """uint8 [16, 16] of [C, H, W] in any range, NaN where missing; None for an image of one color."""
    shown = image[:3].float().nan_to_num_(0.0).mean(0)
    small = F.adaptive_avg_pool2d(shown[None], SIDE)[0].numpy()
    low, high = float(small.min()), float(small.max())
    if high - low <= FLAT * max(abs(low), abs(high), 1e-30):
        return None
    return np.round((small - low) * (255 / (high - low))).astype(np.uint8)


def _digest(image: ImageRef) -> bytes:
    whole = hashlib.blake2b(digest_size=16)
    with image.open("rb") as opened:
        while part := opened.read(CHUNK):
            whole.update(part)
    return whole.digest()


def _undecoded(*_: object) -> np.ndarray:
    raise AssertionError("never decoded")

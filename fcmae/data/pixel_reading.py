"""How the numbers of image files become the network's channels in 0 … 1: one specification for a whole run."""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

Stack = Literal["auto", "channels", "images"]
Slices = Literal["axial", "coronal", "sagittal"]
MAX_PIXELS = 2**28
"""Pixels that one image, or one crop of a tiled scene, may have by default: 268 million."""
NUMBERS = (0.0, 1.0)
"""With any value range the values of a DICOM file are numbers, not what its window shows; this one asks for them."""


@dataclass(frozen=True)
class PixelReading:
    """What is read of each file, and how. Hashable plain data; the fields are those of ``--data``."""

    in_chans: int = 3
    """Channels that the network takes."""
    bands: tuple[int, ...] | None = None
    """Channels of the file to take, counted from 1; None: all."""
    value_range: tuple[float, ...] | None = None
    """Values that become 0 and 1: low, high of all channels, or of each in turn. None: by the file's type."""
    nodata: float | None = None
    """The value of missing pixels; NaN and a TIFF's own GDAL_NODATA tag count besides. None: these alone."""
    stack: Stack = "auto"
    """What the pages of a TIFF, the frames of a DICOM file and the slices of a volume are."""
    max_pixels: int = MAX_PIXELS
    """Most pixels to decode at once."""
    level: int = 0
    """Level of a pyramid that stands for the image; 0: the full resolution."""
    slices: Slices = "axial"
    """Along which anatomical plane a volume is cut."""

    def __post_init__(self) -> None:
        check_bands(self.bands, self.in_chans)
        check_value_range(self.value_range, self.in_chans)
        if self.stack not in get_args(Stack):
            raise ValueError(f"stack must be one of {', '.join(get_args(Stack))}, got {self.stack!r}")
        if self.slices not in get_args(Slices):
            raise ValueError(f"slices must be one of {', '.join(get_args(Slices))}, got {self.slices!r}")
        if self.level < 0:
            raise ValueError(f"level must be 0 (full resolution) or more, got {self.level}")

    @classmethod
    def of(cls, given: "PixelReading | int") -> "PixelReading":
        """A number of channels stands for the defaults."""
        return cls(in_chans=given) if isinstance(given, int) else given

    def pairs(self) -> tuple[tuple[float, float], ...] | None:
        """(low, high) of each channel; None if no value range is set."""
        if self.value_range is None:
            return None
        found = tuple(zip(self.value_range[::2], self.value_range[1::2], strict=True))
        return found if len(found) == self.in_chans else found * self.in_chans

    def exported(self) -> dict[str, Any]:
        """What the configuration of an exported network says about pixels; empty for plain 8-bit images."""
        found: dict[str, Any] = {"value_range": self.value_range, "bands": self.bands, "nodata": self.nodata}
        defaults = {"stack": "auto", "level": 0, "slices": "axial"}
        found |= {name: getattr(self, name) for name, default in defaults.items() if getattr(self, name) != default}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in found.items() if v is not None}


def check_bands(bands: tuple[int, ...] | None, in_chans: int | None = None) -> None:
    """ValueError for bands below 1, or another number of them than channels."""
    if bands is None:
        return
    if not bands or min(bands) < 1:
        raise ValueError(f"bands are counted from 1, such as 4,3,2; got {list(bands)}")
    if in_chans is not None and len(bands) != in_chans:
        raise ValueError(f"bands must name one band per channel: model.in_chans is {in_chans}, got {list(bands)}")


def check_value_range(value_range: tuple[float, ...] | None, in_chans: int | None = None) -> None:
    """ValueError unless it is None, one pair low < high, or one pair per channel."""
    if value_range is None:
        return
    pairs = list(zip(value_range[::2], value_range[1::2], strict=False))
    if len(value_range) % 2 or not pairs or not all(math.isfinite(n) for n in value_range):
        raise ValueError(f"value_range must be low,high, or low,high of each channel in turn, got {list(value_range)}")
    if any(low >= high for low, high in pairs):
        raise ValueError(f"value_range must have low < high, got {list(value_range)}")
    if in_chans is not None and len(pairs) not in (1, in_chans):
        raise ValueError(
            f"value_range must be one pair low,high, or one per channel: model.in_chans is {in_chans}, "
            f"got {len(pairs)} pairs"
        )

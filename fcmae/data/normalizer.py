"""Normalizes pixels for a network, and back."""

import math
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from fcmae.data.pixel_reading import PixelReading

NOTE = (
    "Values of the files are clipped to value_range (low, high of all channels, or of each in turn) and mapped to "
    "0 … 1, then normalized by mean and std; bands are counted from 1; nodata and NaN become the mean."
)


@dataclass(frozen=True)
class Normalizer:
    """(pixel − mean) / std per channel; pixels are in 0 … 1, or uint8. A missing pixel, NaN, becomes the mean, 0."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 or float32 in 0 … 1 → float32 of about zero mean and unit variance; [..., C, H, W], on any device."""
        pixels = TF.to_dtype(images.contiguous(), torch.float32, scale=True)  # bytes may come channels-last
        normal = (pixels - _channels(self.mean, images.device)) / _channels(self.std, images.device)
        return normal.nan_to_num_(nan=0.0, posinf=math.inf, neginf=-math.inf) if images.is_floating_point() else normal

    def inverse(self, images: Tensor) -> Tensor:
        """The inverse, clipped to 0 … 1."""
        return (images * _channels(self.std, images.device) + _channels(self.mean, images.device)).clamp(0, 1)


class Pixels(NamedTuple):
    """How the pixels of files become a network's input: read as 0 … 1, then normalized."""

    normalize: Normalizer
    reading: PixelReading

    @property
    def mean(self) -> tuple[float, ...]:
        """Of each channel, in 0 … 1."""
        return self.normalize.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Of each channel, in 0 … 1."""
        return self.normalize.std

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data, under the names of ``--data``."""
        found = asdict(self.reading) | {"mean": self.mean, "std": self.std}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in found.items()}

    def exported(self) -> dict[str, Any]:
        """What the configuration of an exported network says that mean and std do not; empty for 8-bit images."""
        found = self.reading.exported()
        return found and found | {"mean": list(self.mean), "std": list(self.std), "note": NOTE}

    def of_raw_values(self) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
        """(factor, mean, std) with which value · factor − mean, divided by std, is the network's input.

        For the values of files; 8-bit ones if there is no value range. What lies beyond the range is not clipped.
        """
        pairs = self.reading.pairs() or ((0.0, 255.0),) * len(self.mean)
        if self.reading.pairs() is None:
            return 1 / 255, self.mean, self.std
        factor = 1 / max(high - low for low, high in pairs)
        spans = [(low, high - low) for low, high in pairs]
        means = tuple(factor * (low + mean * span) for mean, (low, span) in zip(self.mean, spans, strict=True))
        return factor, means, tuple(factor * std * span for std, (_, span) in zip(self.std, spans, strict=True))


@cache
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """[C, 1, 1]. Copied to each device once, because every copy synchronizes a GPU."""
    with torch.inference_mode(False):  # the cached tensor may later take part in autograd
        return torch.tensor(values, device=device).view(-1, 1, 1)

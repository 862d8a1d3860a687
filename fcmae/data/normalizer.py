"""Pixels to what a network takes, and back."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF


@dataclass(frozen=True)
class Normalizer:
    """(pixel − mean) / std per channel; pixels are 0 … 1, or uint8 for that times 255."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 or float32 in 0 … 1 → float32 of about zero mean and unit variance; [..., C, H, W], on any device."""
        pixels = TF.to_dtype(images.contiguous(), torch.float32, scale=True)  # bytes may come channels-last
        return (pixels - _channels(self.mean, images.device)) / _channels(self.std, images.device)

    def inverse(self, images: Tensor) -> Tensor:
        """Pixels again, clipped to 0 … 1."""
        return (images * _channels(self.std, images.device) + _channels(self.mean, images.device)).clamp(0, 1)


@cache
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """[C, 1, 1]. Copied to a device once: each copy makes a GPU finish what it has."""
    with torch.inference_mode(False):  # it is kept, and may be met by a gradient later
        return torch.tensor(values, device=device).view(-1, 1, 1)

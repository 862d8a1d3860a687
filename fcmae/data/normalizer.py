"""Normalizes pixels for a network, and back."""

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF


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


@cache
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """[C, 1, 1]. Copied to each device once, because every copy synchronizes a GPU."""
    with torch.inference_mode(False):  # the cached tensor may later take part in autograd
        return torch.tensor(values, device=device).view(-1, 1, 1)

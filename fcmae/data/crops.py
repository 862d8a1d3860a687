"""Crops of image files, resized; a JPEG is decoded at a reduced size where the crop allows it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fcmae.data.images import ImageFile


def resized_crop(file: ImageFile, crop: tuple[int, int, int, int], size: tuple[int, int], plane: int = 0) -> Tensor:
    """(top, left, height, width) of an image, resized; [C, *size], uint8 (channels-last in memory) or float32 in 0 … 1.

    A float image has NaN where there is no value. ``plane`` is the image of a stack. If the crop is at least twice
    ``size``, a JPEG is decoded at half its size or less.
    """
    return resized(file.crop(crop, min(crop[2] // size[0], crop[3] // size[1]), plane), size)


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """[C, H, W] in another size; uint8 (channels-last in memory), or float32 in 0 … 1.

    NaN has no weight in what is resized, and remains where it is at least half of it.
    """
    images = image[None]
    if images.dtype == torch.uint8:  # stay in uint8, as Pillow does; channels-last, as decoders write, is faster
        images = images.contiguous(memory_format=torch.channels_last)
        return F.interpolate(images, size=size, mode="bicubic", antialias=True)[0]
    gone = images.isnan()
    if not gone.any():  # bicubic resizing overshoots
        return F.interpolate(images, size=size, mode="bicubic", antialias=True)[0].clamp(0, 1)
    there = (~gone).float()
    share = F.interpolate(there, size=size, mode="bilinear", antialias=True)
    values, weights = (
        F.interpolate(each, size=size, mode="bicubic", antialias=True) for each in (images.nan_to_num(0.0), there)
    )
    return (values / weights.clamp(min=0.1)).clamp(0, 1).masked_fill(share <= 0.5, torch.nan)[0]


def center_crop(file: ImageFile, image_hw: tuple[int, int]) -> Tensor:
    """The largest center crop of this aspect ratio, resized; [C, H, W], uint8 or float32 in 0 … 1.

    Of a stack of images the middle one.
    """
    return resized_crop(file, center_box((file.height, file.width), image_hw), image_hw, file.planes // 2)


def center_box(of_hw: tuple[int, int], shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the largest centered box of an aspect ratio."""
    rows = max(1, min(of_hw[0], of_hw[1] * shape[0] // shape[1]))
    columns = max(1, min(of_hw[1], of_hw[0] * shape[1] // shape[0]))
    return (of_hw[0] - rows) // 2, (of_hw[1] - columns) // 2, rows, columns

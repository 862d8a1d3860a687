"""Crops of image files, resized; a JPEG is decoded at a reduced size where the crop allows it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fcmae.data.images import JPEG_SCALES, ImageFile


def resized_crop(file: ImageFile, crop: tuple[int, int, int, int], size: tuple[int, int]) -> Tensor:
    """(top, left, height, width) of an image, resized; [C, *size], uint8 (channels-last in memory) or float32 in 0 … 1.

    If the crop is at least twice ``size``, a JPEG is decoded at half its size or less.
    """
    image = file.decode(min(crop[2] // size[0], crop[3] // size[1]))
    longer = 1 if file.height > file.width else 2
    decoded_to, full = image.shape[longer], max(file.height, file.width)
    reduced = min(JPEG_SCALES, key=lambda n: abs(n * decoded_to - full))
    top, left, height, width = (round(length / reduced) for length in crop)
    height, width = min(height, image.shape[1] - top), min(width, image.shape[2] - left)
    cropped = image[None, :, top : top + height, left : left + width]
    if cropped.dtype == torch.uint8:  # stay in uint8, as Pillow does; channels-last, as decoders write, is faster
        cropped = cropped.contiguous(memory_format=torch.channels_last)
    resized = F.interpolate(cropped, size=size, mode="bicubic", antialias=True)[0]
    return resized if resized.dtype == torch.uint8 else resized.clamp(0, 1)  # bicubic resizing overshoots


def center_crop(file: ImageFile, image_hw: tuple[int, int]) -> Tensor:
    """The largest center crop of this aspect ratio, resized; [C, H, W], uint8 or float32 in 0 … 1."""
    height, width = image_hw
    rows = max(1, min(file.height, file.width * height // width))
    columns = max(1, min(file.width, file.height * width // height))
    crop = ((file.height - rows) // 2, (file.width - columns) // 2, rows, columns)
    return resized_crop(file, crop, (height, width))

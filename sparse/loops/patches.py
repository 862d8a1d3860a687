"""Pixels of chosen patches, each read and written once: the stem's input and the loss's target."""

import numpy as np
from numba import prange
from torch import Tensor

from fcmae.sparse.loops.runtime import compiled, run


def stem_columns(images: Tensor, patches_BK: Tensor, grid_width: int, raster_of_z: Tensor) -> Tensor:
    """See :func:`fcmae.sparse.gather_image_patches`.

    Args:
        images: [B, C, H, W].
        patches_BK: int64, raster index of each patch.
        grid_width: patches in a row of the image.
        raster_of_z: int64 [s·s], place in raster order of each site of a patch.
    """
    channels, pixels = images.shape[1], images.shape[3] // grid_width
    side = 1 << (len(raster_of_z).bit_length() - 1) // 2  # s = 2ⁿ, s·s = 4ⁿ
    stride = pixels // side
    out = images.new_empty(patches_BK.numel() * side * side, channels * stride * stride)
    run(_stem_columns, images, patches_BK, grid_width, raster_of_z, side, stride, out)
    return out


def targets(images: Tensor, patches_BK: Tensor, grid_width: int, eps: float | None) -> Tensor:
    """[B·K, p·p·C], the pixels in the order (y, x, channel); with ``eps`` less their mean, over √(var + eps)."""
    pixels = images.shape[3] // grid_width
    out = images.new_empty(patches_BK.numel(), pixels * pixels * images.shape[1])
    run(_targets, images, patches_BK, grid_width, pixels, eps is not None, eps or 0.0, out)
    return out


@compiled
def _stem_columns(images, patches, grid_width, raster_of_z, side, stride, out):  # type: ignore[no-untyped-def]
    (per_image, channels), pixels = (patches.shape[1], images.shape[1]), side * stride
    for number in prange(patches.size):
        image, patch = number // per_image, patches[number // per_image, number % per_image]
        for z in range(side * side):
            row, place = number * side * side + z, raster_of_z[z]
            top = patch // grid_width * pixels + place // side * stride
            left = patch % grid_width * pixels + place % side * stride
            column = 0
            for channel in range(channels):
                for y in range(top, top + stride):
                    for x in range(left, left + stride):
                        out[row, column] = images[image, channel, y, x]
                        column += 1


@compiled
def _targets(images, patches, grid_width, pixels, normalise, eps, out):  # type: ignore[no-untyped-def]
    (per_image, channels), size = (patches.shape[1], images.shape[1]), out.shape[1]
    for number in prange(patches.size):
        image, patch = number // per_image, patches[number // per_image, number % per_image]
        top, left = patch // grid_width * pixels, patch % grid_width * pixels
        values = out[number]
        for channel in range(channels):
            for y in range(pixels):
                for x in range(pixels):
                    values[(y * pixels + x) * channels + channel] = images[image, channel, top + y, left + x]
        if normalise:
            mean = square = images.dtype.type(0)
            for i in range(size):
                mean += values[i]
            mean /= size
            for i in range(size):
                values[i] -= mean
                square += values[i] * values[i]
            scale = images.dtype.type(1 / np.sqrt(square / (size - 1) + eps))
            for i in range(size):
                values[i] *= scale

"""Pixels of chosen patches, each read and written once: the stem's input and the loss's target."""

import numpy as np
from numba import prange
from torch import Tensor

from fcmae.sparse.loops.runtime import parallel_loop, run


def stem_columns(images: Tensor, patches_BK: Tensor, side: int, stride: int, raster_of_z: Tensor) -> Tensor:
    """See :func:`fcmae.sparse.gather_image_patches`.

    Args:
        images: [B, C, H, W] of whole patches.
        patches_BK: int64, raster index of each patch.
        side: s.
        stride: p, pixels along the side of a site.
        raster_of_z: int64 [s·s], place in raster order of each site of a patch.
    """
    out = images.new_empty(patches_BK.numel() * side * side, images.shape[1] * stride * stride)
    run(_stem_columns, images, patches_BK, raster_of_z, side, stride, out)
    return out


def targets(images: Tensor, patches_BK: Tensor, pixels: int, eps: float | None) -> Tensor:
    """[B·K, p·p·C], p = ``pixels``, in the order (y, x, channel); with ``eps`` less their mean, over √(var + eps)."""
    out = images.new_empty(patches_BK.numel(), pixels * pixels * images.shape[1])
    run(_targets, images, patches_BK, pixels, eps is not None, eps or 0.0, out)
    return out


@parallel_loop
def _stem_columns(images, patches, raster_of_z, side, stride, out):  # type: ignore[no-untyped-def]
    (per_image, channels), pixels = (patches.shape[1], images.shape[1]), side * stride
    grid_width = images.shape[3] // pixels
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


@parallel_loop
def _targets(images, patches, pixels, normalize, eps, out):  # type: ignore[no-untyped-def]
    (per_image, channels), size = (patches.shape[1], images.shape[1]), out.shape[1]
    grid_width = images.shape[3] // pixels
    for number in prange(patches.size):
        image, patch = number // per_image, patches[number // per_image, number % per_image]
        top, left = patch // grid_width * pixels, patch % grid_width * pixels
        values = out[number]
        for channel in range(channels):
            for y in range(pixels):
                for x in range(pixels):
                    values[(y * pixels + x) * channels + channel] = images[image, channel, top + y, left + x]
        if normalize:
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

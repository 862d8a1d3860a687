"""Pixels of chosen patches, each read and written once: the loss's target."""

import numpy as np
from numba import prange
from torch import Tensor

from fcmae.sparse.backends import pytorch
from fcmae.sparse.backends.numba.guards import can_run
from fcmae.sparse.backends.numba.runtime import launch, parallel_kernel
from fcmae.sparse.backends.operations import check_images
from fcmae.sparse.sites import ActiveSites


def patch_pixels(images: Tensor, sites: ActiveSites, patch_size: int, norm_eps: float | None) -> Tensor:
    """See :func:`fcmae.sparse.backends.pytorch.patch_pixels`."""
    if images.requires_grad or not can_run(images, autocasts=False):
        return pytorch.patch_pixels(images, sites, patch_size, norm_eps)
    check_images(images, sites, patch_size)
    out = images.new_empty(sites.num_sites(1), patch_size * patch_size * images.shape[1])
    launch(_patch_pixels, images, sites.patches, patch_size, norm_eps is not None, norm_eps or 0.0, out)
    return out


@parallel_kernel
def _patch_pixels(images, patches, pixels, normalize, eps, out):  # type: ignore[no-untyped-def]
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

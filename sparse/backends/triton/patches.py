"""Pixels of chosen patches by Triton kernels, each read and written once: the stem's input and the loss's target."""

# mypy: disable-error-code="no-untyped-def"
# Triton compiles the kernels; they are Python in appearance alone.

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import custom_op

from fcmae.sparse.backends import pytorch
from fcmae.sparse.backends.operations import check_images
from fcmae.sparse.backends.triton.launch import Launch, can_run, next_power_of_2
from fcmae.sparse.sites import ActiveSites

LARGEST_BLOCK = 4096
"""Values that a program has at a time; a patch of more goes in several steps."""


def stem_rows(images: Tensor, sites: ActiveSites, side: int, stride: int) -> Tensor:
    """See :func:`fcmae.sparse.backends.pytorch.stem_rows`. Under autocast in its dtype: a product reads the rows."""
    if images.requires_grad or not images.numel() or not sites.num_visible or not can_run(images):
        return pytorch.stem_rows(images, sites, side, stride)
    check_images(images, sites, side * stride)
    device = images.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else images.dtype
    return _stem_rows_op(images.contiguous(), sites.patches, side, stride, dtype)


def patch_pixels(images: Tensor, sites: ActiveSites, patch_size: int, norm_eps: float | None) -> Tensor:
    """See :func:`fcmae.sparse.backends.pytorch.patch_pixels`."""
    if images.requires_grad or not images.numel() or not sites.num_visible or not can_run(images):
        return pytorch.patch_pixels(images, sites, patch_size, norm_eps)
    check_images(images, sites, patch_size)
    return _patch_pixels_op(images.contiguous(), sites.patches, patch_size, norm_eps)


@triton.jit
def _unspread(z):
    """Every second bit of a place in Z-order: a site's x; its y from z >> 1. For patches of up to 32 sites."""
    return (z & 1) | ((z >> 1) & 2) | ((z >> 2) & 4) | ((z >> 3) & 8) | ((z >> 4) & 16)


@triton.jit
def _corner(images_ptr, order_ptr, order_stride, K: tl.constexpr, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
            PIXELS: tl.constexpr):  # fmt: skip
    """Where this program's patch begins: its first pixel in the first channel of its image."""
    image = tl.program_id(0) // K
    patch = tl.load(order_ptr + image * order_stride + tl.program_id(0) % K).to(tl.int32)
    corner = patch // (W // PIXELS) * (PIXELS * W) + patch % (W // PIXELS) * PIXELS
    return images_ptr + image.to(tl.int64) * (C * H * W) + corner


@triton.jit(do_not_specialize=["order_stride"])
def stem_rows_kernel(
    images_ptr, order_ptr, rows_ptr, order_stride,
    K: tl.constexpr, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, S: tl.constexpr, T: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: a patch. images [B, C, H, W]; order int64 [B, K], strides (order_stride, 1); stride T."""
    COLUMNS: tl.constexpr = C * T * T
    VALUES: tl.constexpr = S * S * COLUMNS
    start = _corner(images_ptr, order_ptr, order_stride, K, C, H, W, S * T)
    out = rows_ptr + tl.program_id(0).to(tl.int64) * VALUES
    for first in range(0, VALUES, BLOCK):
        i = first + tl.arange(0, BLOCK)
        z, column = i // COLUMNS, i % COLUMNS
        y, x = _unspread(z >> 1) * T + column // T % T, _unspread(z) * T + column % T
        value = tl.load(start + (column // (T * T) * H + y) * W + x, mask=i < VALUES, other=0)
        tl.store(out + i, value.to(rows_ptr.dtype.element_ty), mask=i < VALUES)


@triton.jit
def _pixels(start, first, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Values of a patch from the ``first`` on, in the order (y, x, channel), and which there are."""
    i = first + tl.arange(0, BLOCK)
    there = i < SIZE * SIZE * C
    at = (i % C * H + i // (C * SIZE)) * W + i // C % SIZE
    return tl.load(start + at, mask=there, other=0).to(tl.float32), i, there


@triton.jit(do_not_specialize=["order_stride"])
def patch_pixels_kernel(
    images_ptr, order_ptr, target_ptr, order_stride, eps,
    NORMALIZE: tl.constexpr, K: tl.constexpr, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: a patch. target float32 [B·K, SIZE·SIZE·C]. What is read again comes from the nearest cache."""
    VALUES: tl.constexpr = SIZE * SIZE * C
    start = _corner(images_ptr, order_ptr, order_stride, K, C, H, W, SIZE)
    out = target_ptr + tl.program_id(0).to(tl.int64) * VALUES
    mean, scale = 0.0, 1.0
    if NORMALIZE:
        total = tl.zeros((BLOCK,), tl.float32)
        for first in range(0, VALUES, BLOCK):
            total += _pixels(start, first, C, H, W, SIZE, BLOCK)[0]
        mean = tl.sum(total, axis=0) / VALUES
        squares = tl.zeros((BLOCK,), tl.float32)
        for first in range(0, VALUES, BLOCK):
            value, i, there = _pixels(start, first, C, H, W, SIZE, BLOCK)
            centered = tl.where(there, value - mean, 0.0)
            squares += centered * centered
        scale = 1.0 / tl.sqrt(tl.sum(squares, axis=0) / (VALUES - 1) + eps)
    for first in range(0, VALUES, BLOCK):
        value, i, there = _pixels(start, first, C, H, W, SIZE, BLOCK)
        tl.store(out + i, (value - mean) * scale, mask=there)


def stem_rows_launch(patches: tuple[int, int], image: tuple[int, int, int], side: int, stride: int) -> Launch:
    """``patches`` (B, K), ``image`` (C, H, W); a program for each patch."""
    constants = {**_sizes(patches, image, side * stride), "S": side, "T": stride}
    return Launch(stem_rows_kernel, (patches[0] * patches[1],), constants, num_warps=8)


def patch_pixels_launch(patches: tuple[int, int], image: tuple[int, int, int], size: int, normalize: bool) -> Launch:
    """As :func:`stem_rows_launch`."""
    constants = {**_sizes(patches, image, size), "SIZE": size, "NORMALIZE": normalize}
    return Launch(patch_pixels_kernel, (patches[0] * patches[1],), constants, num_warps=8)


def _sizes(patches: tuple[int, int], image: tuple[int, int, int], pixels: int) -> dict[str, int | bool]:
    channels, height, width = image
    block = min(next_power_of_2(pixels * pixels * channels), LARGEST_BLOCK)
    return {"K": patches[1], "C": channels, "H": height, "W": width, "BLOCK": block}


@custom_op("fcmae::stem_rows", mutates_args=())
def _stem_rows_op(images: Tensor, patches: Tensor, side: int, stride: int, dtype: torch.dtype) -> Tensor:
    """images [B, C, H, W], contiguous; patches int64 [B, K], raster indices."""
    out = _rows(images, patches, side, stride, dtype)
    launch = stem_rows_launch((len(patches), patches.shape[1]), (*images.shape[1:],), side, stride)
    launch(images, patches, out, patches.stride(0))
    return out


@custom_op("fcmae::patch_pixels", mutates_args=())
def _patch_pixels_op(images: Tensor, patches: Tensor, patch_size: int, norm_eps: float | None) -> Tensor:
    """images [B, C, H, W], contiguous; patches int64 [B, K], raster indices."""
    out = _targets(images, patches, patch_size)
    normalize = norm_eps is not None
    launch = patch_pixels_launch((len(patches), patches.shape[1]), (*images.shape[1:],), patch_size, normalize)
    launch(images, patches, out, patches.stride(0), norm_eps or 0.0)
    return out


def _rows(images: Tensor, patches: Tensor, side: int, stride: int, dtype: torch.dtype) -> Tensor:
    return images.new_empty(patches.numel() * side * side, images.shape[1] * stride * stride, dtype=dtype)


def _targets(images: Tensor, patches: Tensor, patch_size: int) -> Tensor:
    return images.new_empty(patches.numel(), patch_size * patch_size * images.shape[1], dtype=torch.float32)


@_stem_rows_op.register_fake
def _(images: Tensor, patches: Tensor, side: int, stride: int, dtype: torch.dtype) -> Tensor:
    return _rows(images, patches, side, stride, dtype)


@_patch_pixels_op.register_fake
def _(images: Tensor, patches: Tensor, patch_size: int, norm_eps: float | None) -> Tensor:
    return _targets(images, patches, patch_size)

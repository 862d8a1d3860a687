"""Conversion between images and patches of pixels."""

from einops import rearrange
from torch import Tensor


def patch_grid(images: Tensor, patch_size: int) -> tuple[int, int]:
    """Patches along height and width of images [B, C, h·p, w·p].

    Raises:
        ValueError: another shape.
    """
    if images.ndim != 4 or any(side < patch_size or side % patch_size for side in images.shape[2:]):
        raise ValueError(
            f"images {list(images.shape)} do not fit: they must be [B, C, H, W], H and W multiples of {patch_size}"
        )
    return images.shape[2] // patch_size, images.shape[3] // patch_size


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """[B, C, h·p, w·p] → [B, h·w, p·p·C], values of a patch ordered (y, x, channel)."""
    return rearrange(images, "b c (h p) (w q) -> b (h w) (p q c)", p=patch_size, q=patch_size)


def unpatchify(patches: Tensor, patch_size: int, grid_hw: tuple[int, int]) -> Tensor:
    """The inverse: [B, h·w, p·p·C] → [B, C, h·p, w·p]."""
    return rearrange(
        patches, "b (h w) (p q c) -> b c (h p) (w q)", p=patch_size, q=patch_size, h=grid_hw[0], w=grid_hw[1]
    )


def enlarge_mask(visible: Tensor, factor: int) -> Tensor:
    """bool [B, h, w] → [B, 1, h·factor, w·factor]: the mask per pixel, or per site of a stage."""
    return visible.repeat_interleave(factor, 1).repeat_interleave(factor, 2).unsqueeze(1)

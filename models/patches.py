"""Images to patches of pixels and back, and the per-patch normalization that the loss is taken in."""

import torch
from einops import rearrange
from torch import Tensor

from fcmae.sparse import ActiveSites
from fcmae.sparse.compiled import loops_for

NORM_EPS = 1e-6


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """[B, C, h·p, w·p] → [B, h·w, p·p·C], values of a patch ordered (y, x, channel)."""
    return rearrange(images, "b c (h p) (w q) -> b (h w) (p q c)", p=patch_size, q=patch_size)


def unpatchify(patches: Tensor, patch_size: int, grid_hw: tuple[int, int]) -> Tensor:
    """The converse: [B, h·w, p·p·C] → [B, C, h·p, w·p]."""
    return rearrange(
        patches, "b (h w) (p q c) -> b c (h p) (w q)", p=patch_size, q=patch_size, h=grid_hw[0], w=grid_hw[1]
    )


def enlarge_mask(visible: Tensor, factor: int) -> Tensor:
    """bool [B, h, w] → [B, 1, h·factor, w·factor]: the mask of pixels, or of the sites of a stage."""
    return visible.repeat_interleave(factor, 1).repeat_interleave(factor, 2).unsqueeze(1)


def patch_mean_std(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and √(unbiased variance + 1e-6) of each patch over all its values: [..., p·p·C] → two [..., 1] (MAE)."""
    mean = patches.mean(-1, keepdim=True)
    # the library's var took four times as long on a CPU
    variance = (patches - mean).square().sum(-1, keepdim=True) / (patches.shape[-1] - 1)
    return mean, (variance + NORM_EPS).sqrt()


def masked_targets(images: Tensor, sites: ActiveSites, patch_size: int, norm_pix_loss: bool) -> Tensor:
    """What the loss compares with: the masked patches' pixels, normalized per patch if asked for, in raster order.

    [B·(h·w − K), p·p·C] in float32 or wider. ValueError: the images do not fit the patch grid.
    """
    expected = (sites.batch_size, sites.height * patch_size, sites.width * patch_size)
    if images.ndim != 4 or (images.shape[0], *images.shape[2:]) != expected:
        raise ValueError(f"images must be [{expected[0]}, C, {expected[1]}, {expected[2]}], got {list(images.shape)}")
    loops = None if images.requires_grad else loops_for(images)
    if loops:
        return loops.targets(images, sites.masked_patches, patch_size, NORM_EPS if norm_pix_loss else None)
    target = patchify(images, patch_size).flatten(0, 1).index_select(0, sites.masked_index())
    target = target.to(torch.promote_types(target.dtype, torch.float32))
    if not norm_pix_loss:
        return target
    mean, std = patch_mean_std(target)
    return (target - mean) / std

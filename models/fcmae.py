"""FCMAE (arXiv 2301.00808, section 3): mask, encode visible patches, decode all, compute the loss on masked ones."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcmae.models.config import ModelConfig
from fcmae.models.decoder import Decoder
from fcmae.models.encoder import SparseConvNeXt
from fcmae.models.patches import patch_grid, patchify, unpatchify
from fcmae.sparse.backends.pytorch import patch_mean_std
from fcmae.sparse.sites import ActiveSites

NORM_EPS = 1e-6  # added to a patch's variance


class FCMAEOutput(NamedTuple):
    """Output of a forward pass."""

    loss: Tensor
    """Scalar, float32: mean squared error per patch, averaged over the masked patches (those that are
    ``scored``); 0 if there are none."""
    pred: Tensor
    """[B, h·w, p·p·C]: predicted pixels of every patch, normalized per patch if ``norm_pix_loss``; with ``masked_only``
    [B, h·w − K, p·p·C], of the masked patches in raster order."""
    visible: Tensor
    """bool [B, h, w]: the patches that the encoder saw."""


class FCMAE(nn.Module):
    """Fully convolutional masked autoencoder.

    Args:
        config: configuration of encoder and decoder.
        mask_ratio: share of the patches to mask if the caller passes no mask, in [0, 1). An image keeps
            ``round(h·w · (1 − mask_ratio))`` patches, at least one.

    Any image size that is a multiple of the patch size works; ``config.img_size`` is the default.
    """

    def __init__(self, config: ModelConfig, mask_ratio: float = 0.6) -> None:
        super().__init__()
        if not 0 <= mask_ratio < 1:
            raise ValueError(f"mask_ratio must be in [0, 1), got {mask_ratio}")
        self.config = config
        self.mask_ratio = mask_ratio
        self.patch_size = config.patch_size
        self.encoder = SparseConvNeXt(config)
        self.decoder = Decoder(
            in_dim=self.encoder.num_features,
            dim=config.decoder_dim,
            depth=config.decoder_depth,
            out_dim=config.patch_size**2 * config.in_chans,
            backend=config.dense_backend,
        )

    @classmethod
    def from_pretrained(
        cls, path: str | Path, backend: str = "auto", *, allow_pickle: bool = False, use_ema: bool = True
    ) -> "FCMAE":
        """The FCMAE of a run, encoder and decoder, in eval mode; same as :func:`fcmae.load_model`."""
        # The only import from a higher layer: users expect this method here, but fcmae.weights reads checkpoints
        from fcmae.weights.load import load_model

        return load_model(path, backend, allow_pickle=allow_pickle, use_ema=use_ema)

    def forward(
        self,
        images: Tensor,
        visible: Tensor | None = None,
        num_visible: int | None = None,
        masked_only: bool = False,
        scored: Tensor | None = None,
    ) -> FCMAEOutput:
        """Reconstruct masked images.

        Args:
            images: [B, C, H, W], normalized.
            visible: bool [B, h, w], True = kept; None draws a random mask per image from torch's generator.
            num_visible: patches kept per image in ``visible``, if known; avoids a GPU synchronization.
            masked_only: predict only the masked patches, which are all the loss needs. Faster; used in training.
            scored: bool [B, h, w]: the loss is the mean over the masked patches where it is True; None: over all.

        Raises:
            ValueError: sizes that do not match, or images that keep different numbers of patches.
        """
        if visible is None:
            visible, num_visible = self.random_visible(images)
        if scored is not None and (scored.dtype != torch.bool or scored.shape != visible.shape):
            raise ValueError(f"scored must be bool {list(visible.shape)}, got {scored.dtype} {list(scored.shape)}")
        sites = ActiveSites(visible, num_visible)
        pred = self.decoder(self.encoder.forward_sites(images, sites), sites, masked_only)
        if sites.is_full:  # nothing to predict: a zero loss that keeps the graph
            return FCMAEOutput(pred.sum(dtype=torch.promote_types(pred.dtype, torch.float32)) * 0.0, pred, visible)
        masked = sites.complement()
        of_masked = pred if masked_only else pred.flatten(0, 1).index_select(0, masked.grid_index(side=1))
        return FCMAEOutput(self._loss(images, of_masked.flatten(0, -2), masked, scored), pred, visible)

    def random_visible(self, images: Tensor) -> tuple[Tensor, int]:
        """A random mask [B, h, w] on the images' device, and the number of patches it keeps per image.

        Raises:
            ValueError: as :func:`fcmae.models.patches.patch_grid`.
        """
        grid_hw = patch_grid(images, self.patch_size)
        num_visible = count_visible(math.prod(grid_hw), self.mask_ratio)
        return random_visible(len(images), grid_hw, num_visible, device=images.device), num_visible

    def _loss(self, images: Tensor, pred: Tensor, masked: ActiveSites, scored: Tensor | None) -> Tensor:
        """Mean squared error of the masked patches, ``pred`` [B·(h·w − K), p·p·C]; in float32 or wider."""
        norm_eps = NORM_EPS if self.config.norm_pix_loss else None
        target = self.decoder.ops.patch_pixels(images, masked, self.patch_size, norm_eps)
        if scored is None:
            return F.mse_loss(pred.to(target.dtype), target)
        counts = scored.flatten().index_select(0, masked.grid_index(side=1)).to(target.dtype)
        errors = F.mse_loss(pred.to(target.dtype), target, reduction="none").mean(1)
        return (errors * counts).sum() / counts.sum().clamp(min=1)

    def reconstruct(self, images: Tensor, output: FCMAEOutput) -> tuple[Tensor, Tensor]:
        """Reconstructed images of a forward pass, normalized like the input.

        With ``norm_pix_loss`` the prediction does not include a patch's brightness and contrast, so they are taken from
        the original patch.

        Returns:
            (masked, pasted), both [B, C, H, W]: the images with zero where masked, and the images with the prediction
            where masked and the original pixels where visible.
        """
        target = patchify(images, self.patch_size)
        if output.pred.shape[1] != target.shape[1]:
            raise ValueError("reconstruct needs predictions of all patches; run the model without masked_only")
        pred = output.pred.to(target.dtype)
        if self.config.norm_pix_loss:
            mean, std = patch_mean_std(target, NORM_EPS)
            pred = pred * std + mean
        keep = output.visible.flatten(1).unsqueeze(-1)
        grid_hw = (output.visible.shape[1], output.visible.shape[2])
        masked, pasted = target * keep, torch.where(keep, target, pred)
        return unpatchify(masked, self.patch_size, grid_hw), unpatchify(pasted, self.patch_size, grid_hw)


def count_visible(num_patches: int, mask_ratio: float) -> int:
    """K = round(L · (1 − mask_ratio)), at least 1 and at most L (the official code truncates instead of rounding)."""
    return min(num_patches, max(1, round(num_patches * (1 - mask_ratio))))


def random_visible(
    batch_size: int,
    grid_hw: tuple[int, int],
    num_visible: int,
    *,
    device: torch.device | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Random masks, bool [B, h, w] each with ``num_visible`` True; all such masks are equally likely."""
    height, width = grid_hw
    rank_BL = torch.rand(batch_size, height * width, device=device, generator=generator).argsort(1).argsort(1)
    return (rank_BL < num_visible).view(batch_size, height, width)


def create_model(name: str = "convnextv2_atto", *, mask_ratio: float = 0.6, **config: Any) -> FCMAE:
    """An FCMAE with newly initialized weights.

    Args:
        name: encoder size, see :func:`fcmae.list_models`.
        mask_ratio: share of the patches to mask if the caller passes no mask.
        config: other fields of :class:`fcmae.ModelConfig`: ``img_size``, ``in_chans``, ``stem_stride``, ``use_grn``,
            ``use_layer_scale``, ``ls_init_value``, ``drop_path_rate``, ``decoder_depth``, ``decoder_dim``,
            ``norm_pix_loss``, ``backend``, ``checkpoint_stages``.

    Raises:
        ValueError: an unknown name, a value out of range, or a backend that is not installed.
        TypeError: an unknown field.
    """
    return FCMAE(ModelConfig(name=name, **config), mask_ratio=mask_ratio)

"""Forward pass of a network up to its last block: dense networks as they are, sparse ones with a mask per image."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fcmae.errors import UserError
from fcmae.models import FCMAE, SparseConvNeXt
from fcmae.models.fcmae import count_visible, random_visible
from fcmae.models.patches import patch_grid
from fcmae.sparse.sites import ActiveSites


class Forward:
    """Runs the network without its head or decoder; call it with one batch [B, C, H, W] after another.

    Args:
        model: a dense network, an FCMAE or a sparse encoder.
        mask_ratio: sparse encoders only: share of the patches to mask; None: the FCMAE's own, or 0 for an encoder.
        visible: sparse encoders only, instead of ``mask_ratio``: bool [N, h, w], one mask per image.
        seed: seed of random masks. A mask depends only on the seed and the image's position, not on batch size.
        first: position of the first image; the masks of the images before it are skipped.

    Raises:
        UserError: masks for a dense network, both mask_ratio and visible, or a sparse encoder without a site matrix.
    """

    def __init__(
        self,
        model: nn.Module,
        mask_ratio: float | None = None,
        visible: Tensor | None = None,
        seed: int = 0,
        first: int = 0,
    ) -> None:
        self.model, self.visible, self.first = model, visible, first
        self.encoder = sparse_encoder(model)
        self.mask_ratio = 0.0 if self.encoder is None else getattr(model, "mask_ratio", 0.0)
        self.generator = torch.Generator().manual_seed(seed)
        self.images_seen = 0
        self.sites: ActiveSites | None = None
        """Active sites of the last batch; None for a dense network."""
        if self.encoder is None and (mask_ratio is not None or visible is not None):
            name = type(model).__name__
            raise UserError(f"{name} is a dense network, which sees everything; it takes no mask_ratio or visible")
        if mask_ratio is not None and visible is not None:
            raise UserError("give mask_ratio or visible, not both")
        if mask_ratio is not None:
            self.mask_ratio = mask_ratio
        if not 0 <= self.mask_ratio < 1:
            raise UserError(f"mask_ratio must be in [0, 1), got {mask_ratio}")

    def __call__(self, images: Tensor) -> None:
        """Run a forward pass; hooks read its tensors."""
        if images.ndim != 4 or len(images) == 0:
            raise UserError(f"images must be [B, C, H, W], got {list(images.shape)}")
        images = images.to(next(self.model.parameters()))
        if self.encoder is None:
            getattr(self.model, "forward_features", self.model)(images)
        else:
            self.sites = ActiveSites(self._masks(images, self.encoder.patch_size).to(images.device))
            self.encoder.forward_sites(images, self.sites)
        self.images_seen += len(images)

    def _masks(self, images: Tensor, patch_size: int) -> Tensor:
        if self.visible is not None:
            start = self.first + self.images_seen
            of_these = self.visible[start : start + len(images)]
            if len(of_these) < len(images):
                raise UserError(f"visible holds masks of {len(self.visible)} images, but there are more images")
            return of_these
        grid_hw = patch_grid(images, patch_size)
        num_visible = count_visible(math.prod(grid_hw), self.mask_ratio)
        skipped = 0 if self.images_seen else self.first
        masks = [
            random_visible(1, grid_hw, num_visible, generator=self.generator) for _ in range(skipped + len(images))
        ]
        return torch.cat(masks[skipped:])


def sparse_encoder(model: nn.Module) -> SparseConvNeXt | None:
    """The model itself or its encoder, if sparse; None for dense networks.

    Raises:
        UserError: its backend is ``masked``, which computes dense tensors and has no site matrix.
    """
    encoder = model.encoder if isinstance(model, FCMAE) else model
    if not isinstance(encoder, SparseConvNeXt):
        return None
    if encoder.is_masked_dense:
        raise UserError('backend "masked" keeps no site matrix to read; build or load the model with backend="auto"')
    return encoder


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; each module's mode is restored afterwards."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, was in training.items():
            module.training = was

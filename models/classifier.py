"""A ConvNeXt classifier that a backend computes: the sparse encoder with every patch visible, and a head."""

from functools import lru_cache

import torch
from torch import Tensor, nn

from fcmae.models.config import ModelConfig
from fcmae.models.encoder import SparseConvNeXt
from fcmae.models.patches import patch_grid
from fcmae.sparse.grid import densify
from fcmae.sparse.sites import ActiveSites


class Classifier(SparseConvNeXt):
    """The network of timm with the same state dict, up to rounding, in training and in evaluation.

    Args:
        config: the network; its ``backend`` computes, its ``drop_path_rate`` and ``checkpoint_stages`` hold.
        head: of timm's network: norm, mean over the positions, classifier.
    """

    def __init__(self, config: ModelConfig, head: nn.Module) -> None:
        super().__init__(config)
        self.head = head

    def forward(self, images: Tensor) -> Tensor:  # type: ignore[override]
        """[B, C, H, W] → [B, classes].

        Raises:
            ValueError: height or width is not a multiple of the patch size.
        """
        grid = patch_grid(images, self.patch_size)
        # what is made in inference mode cannot be used in training
        sites = _every_patch(len(images), *grid, images.device, torch.is_inference_mode_enabled())
        out: Tensor = self.head(densify(self.forward_sites(images, sites), sites, side=1))
        return out


@lru_cache(maxsize=4)
def _every_patch(batch_size: int, height: int, width: int, device: torch.device, _is_inference: bool) -> ActiveSites:
    """The same in every step, with the indices that were made once."""
    return ActiveSites.full(batch_size, height, width, device)

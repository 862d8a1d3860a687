"""The sparse ConvNeXt encoder: runs only on visible patches; parameters have timm's names and dense shapes."""

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fcmae.models.block import Block
from fcmae.models.config import MASKED, ModelConfig
from fcmae.models.layers import PLAIN, Downsample, LayerNorm, Stem, init_weights, use_backend_anew
from fcmae.models.masked import masked_forward
from fcmae.sparse.backends.operations import Backend
from fcmae.sparse.grid import densify, gather_sites
from fcmae.sparse.sites import ActiveSites


class Stage(nn.Module):
    """Downsampling (LayerNorm, 2×2 stride-2 convolution) except in the first stage, then blocks."""

    def __init__(self, in_dim: int | None, dim: int, blocks: list[Block], recompute: bool = False) -> None:
        super().__init__()
        self.downsample = nn.ModuleList([] if in_dim is None else [LayerNorm(in_dim), Downsample(in_dim, dim)])
        self.blocks = nn.ModuleList(blocks)
        self.recompute = recompute

    def forward(self, x: Tensor, sites: ActiveSites, side: int) -> Tensor:
        """[B·K·(2s)², C_in] (the first stage: [B·K·s·s, C]) → [B·K·s·s, C]."""
        if self.downsample:
            norm, conv = self.downsample
            x = conv(norm(x), sites, 2 * side)
        block: Any
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():
                kept = block.draw_kept(sites.batch_size, x.device)
                # nothing else is random, and the states of generators cannot be read while a CUDA graph is captured
                x = checkpoint(block, x, sites, side, None, kept, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, sites, side)
        return x


class SparseConvNeXt(nn.Module):
    """ConvNeXt V1 or V2 on the visible patches of masked images.

    With every patch visible it matches ``timm.create_model(name).forward_features`` with the same state dict; isotropic
    networks are in :mod:`fcmae.models.isotropic`.
    """

    ops: Backend = PLAIN

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        depths, dims = config.size.depths, config.size.dims
        drop_path_rates = torch.linspace(0, config.drop_path_rate, sum(depths), device="cpu").split(list(depths))
        self.config = config
        self.num_features = dims[-1]
        self.patch_size = config.patch_size
        norm = [] if config.size.is_isotropic else [LayerNorm(dims[0])]
        self.stem = nn.ModuleList([Stem(config.in_chans, dims[0], config.stride), *norm])
        self.stages = nn.ModuleList(
            Stage(
                in_dim=dims[i - 1] if i else None,
                dim=dims[i],
                blocks=[
                    Block(
                        dims[i],
                        use_grn=config.with_grn,
                        ls_init_value=config.ls_init_value if config.with_layer_scale else None,
                        drop_path=rate,
                        conv_mlp=config.size.conv_mlp,
                    )
                    for rate in drop_path_rates[i].tolist()
                ],
                recompute=i in config.checkpoint_stages,
            )
            for i in range(len(depths))
        )
        self.sides = tuple(2**i for i in reversed(range(len(depths))))
        """s, sites along one side of a patch, for each stage: 8, 4, 2, 1; isotropic: 1."""
        self.apply(init_weights)
        self.backend_name = config.sparse_backend
        use_backend_anew(self)
        self.register_load_state_dict_post_hook(use_backend_anew)  # assign=True may bring another device

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Moving the module (``.to``, ``.cuda``) also selects the backend for the new device."""
        super()._apply(fn, recurse)
        use_backend_anew(self)
        return self

    @property
    def is_masked_dense(self) -> bool:
        """Whether this is the masked dense baseline, which computes every position and has no site matrix."""
        return self.config.backend == MASKED

    def forward(self, images: Tensor, visible: Tensor) -> Tensor:
        """Features of the last stage on the patch grid.

        Args:
            images: [B, C, H, W]; the values of masked pixels have no effect.
            visible: bool [B, h, w], True = kept; the same number of patches for every image.

        Returns:
            [B, C_last, h, w] with h = H / patch size; zero where not visible.

        Raises:
            ValueError: shapes of images and mask do not match, or images keep different numbers of patches.
        """
        sites = ActiveSites(visible)
        return densify(self.forward_sites(images, sites), sites, side=1)

    def forward_sites(self, images: Tensor, sites: ActiveSites) -> Tensor:
        """[B, C, H, W] → features of the visible patches, [B·K, C_last], image by image in raster order."""
        in_chans = self.stem[0].in_channels
        if images.ndim == 4 and images.shape[1] != in_chans:
            raise ValueError(f"the encoder takes images of {in_chans} channels, got {images.shape[1]}")
        if self.is_masked_dense:
            return gather_sites(masked_forward(self.stem, self.stages, images, sites), sites, side=1)
        stem, *norms = self.stem
        x = stem(images, sites, self.sides[0])
        for norm in norms:
            x = norm(x)
        for stage, side in zip(self.stages, self.sides, strict=True):
            x = stage(x, sites, side)
        return x

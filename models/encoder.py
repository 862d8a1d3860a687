"""The sparse ConvNeXt encoder: runs on the visible patches, carries timm's parameter names and dense shapes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fcmae.models.block import Block
from fcmae.models.config import ModelConfig
from fcmae.models.layers import Downsample, LayerNorm, Stem, init_weights
from fcmae.models.masked import masked_forward
from fcmae.sparse import ActiveSites, Backend, densify, gather_sites, resolve_backend


class Stage(nn.Module):
    """A downsample (LayerNorm, 2×2 stride-2 convolution) except in the first stage, then blocks."""

    def __init__(
        self, in_dim: int | None, dim: int, blocks: list[Block], backend: Backend, recompute: bool = False
    ) -> None:
        super().__init__()
        self.downsample = nn.ModuleList([] if in_dim is None else [LayerNorm(in_dim), Downsample(in_dim, dim, backend)])
        self.blocks = nn.ModuleList(blocks)
        self.recompute = recompute

    def forward(self, x: Tensor, sites: ActiveSites, side: int) -> Tensor:
        """[B·K·(2s)², C_in] (the first stage: [B·K·s·s, C]) → [B·K·s·s, C]."""
        if self.downsample:
            norm, conv = self.downsample
            x = conv(norm(x), sites, 2 * side)
        for block in self.blocks:
            x = self.call(block, x, sites, side)
        return x

    def call(self, block: Callable[..., Tensor], *args: Any) -> Tensor:
        """block(*args), to be computed again in the backward pass if this stage is to."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(block, *args, use_reentrant=False)
        return block(*args)


class SparseConvNeXt(nn.Module):
    """ConvNeXt V1 or V2 on the visible patches of masked images.

    With every patch visible it equals ``timm.create_model(name).forward_features`` under the same state dict.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        depths, dims = config.size.depths, config.size.dims
        drop_path_rates = torch.linspace(0, config.drop_path_rate, sum(depths), device="cpu").split(list(depths))
        self.backend = resolve_backend(config.backend)
        self.num_features = dims[-1]
        self.patch_size = config.patch_size
        self.stem = nn.ModuleList([Stem(config.in_chans, dims[0], config.stem_stride), LayerNorm(dims[0])])
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
                        backend=self.backend,
                    )
                    for rate in drop_path_rates[i].tolist()
                ],
                backend=self.backend,
                recompute=i in config.checkpoint_stages,
            )
            for i in range(len(depths))
        )
        self.sides = tuple(2**i for i in reversed(range(len(depths))))
        """s, sites along one side of a patch, for each stage: 8, 4, 2, 1."""
        self.apply(init_weights)

    def forward(self, images: Tensor, visible: Tensor) -> Tensor:
        """Features of the last stage on the patch grid.

        Args:
            images: [B, C, H, W]; masked pixels have no influence, whatever they hold.
            visible: bool [B, h, w], True = kept; the same number of patches for every image.

        Returns:
            [B, C_last, h, w] with h = H / patch size; zero where not visible.

        Raises:
            ValueError: images and mask do not fit, or images keep different numbers of patches.
        """
        sites = ActiveSites(visible)
        return densify(self.forward_sites(images, sites), sites, side=1)

    def forward_sites(self, images: Tensor, sites: ActiveSites) -> Tensor:
        """[B, C, H, W] → features of the visible patches, [B·K, C_last], image by image in raster order."""
        self._check_fit(images, sites)
        if self.backend.name == "masked":
            dense = masked_forward(self.stem, self.stages, images, sites.visible)
            return gather_sites(dense, sites, side=1)
        stem, norm = self.stem
        x = norm(stem(images, sites, self.sides[0]))
        for stage, side in zip(self.stages, self.sides, strict=True):
            x = stage(x, sites, side)
        return x

    def _check_fit(self, images: Tensor, sites: ActiveSites) -> None:
        patch = self.patch_size
        expected = (sites.batch_size, sites.height * patch, sites.width * patch)
        if images.ndim != 4 or (images.shape[0], *images.shape[2:]) != expected:
            raise ValueError(
                f"images {list(images.shape)} do not fit visible {list(sites.visible.shape)}: "
                f"with patches of {patch}×{patch} pixels they must be [{expected[0]}, C, {expected[1]}, {expected[2]}]"
            )
        in_chans = self.stem[0].in_channels
        if images.shape[1] != in_chans:
            raise ValueError(f"the encoder takes images of {in_chans} channels, got {images.shape[1]}")

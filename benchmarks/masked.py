"""The baseline: the same network as masked dense convolution, in channels-last; timm's own model with masks put in.

After every operation that would spread values (or biases) into masked positions the mask is multiplied in, so the
numbers equal the sparse encoder's. Nothing else is added: GRN's sums over the grid are then sums over active positions.
"""

import timm
import torch
from torch import Tensor, nn

from fcmae.models import SparseConvNeXt


class MaskedDenseEncoder(nn.Module):
    """A timm ConvNeXt that takes (images, visible) as the sparse encoder does.

    Args:
        name: timm's name.
        encoder: whose weights to take.
        conv_mlp: 1×1 convolutions (timm's own choice in the small sizes) or Linear layers; the caller times both.
    """

    def __init__(self, name: str, encoder: SparseConvNeXt, conv_mlp: bool) -> None:
        super().__init__()
        self.net = timm.create_model(name, num_classes=0, conv_mlp=conv_mlp)
        shapes = {key: value.shape for key, value in self.net.state_dict().items()}
        state = {key: value.reshape(shapes[key]) for key, value in encoder.state_dict().items()}
        self.net.load_state_dict(state, strict=False)
        self.net.to(memory_format=torch.channels_last)
        self.masks: dict[int, Tensor] = {}
        self.net.stem.register_forward_hook(self._mask_nchw)
        for stage in self.net.stages:
            if len(list(stage.downsample.children())):
                stage.downsample.register_forward_hook(self._mask_nchw)
            for block in stage.blocks:
                # Linear layers see [B, H, W, C], 1×1 convolutions [B, C, H, W]
                block.mlp.act.register_forward_hook(self._mask_nchw if conv_mlp else self._mask_nhwc)
                block.register_forward_hook(self._mask_nchw)

    def _mask_nchw(self, _module: nn.Module, _inputs: tuple, output: Tensor) -> Tensor:
        return output * self.masks[output.shape[2]]

    def _mask_nhwc(self, _module: nn.Module, _inputs: tuple, output: Tensor) -> Tensor:
        return output * self.masks[output.shape[1]].permute(0, 2, 3, 1)

    def forward(self, images: Tensor, visible: Tensor) -> Tensor:
        """[B, C, H, W] and [B, h, w] → [B, C_last, h, w]."""
        self.masks = {}
        for side in (1, 2, 4, 8):
            mask = visible.repeat_interleave(side, 1).repeat_interleave(side, 2).unsqueeze(1)
            self.masks[mask.shape[2]] = mask.to(images.dtype)
        pixels = visible.repeat_interleave(32, 1).repeat_interleave(32, 2).unsqueeze(1)
        x = (images * pixels).contiguous(memory_format=torch.channels_last)
        return self.net.forward_features(x)

"""The whole encoder by its literal definition: dense tensors, a mask after every operation.

Written against the paper and the state dict alone; it shares no code with fcmae.models.
"""

import torch.nn.functional as F
from torch import Tensor

from fcmae.sparse import reference as ref


def encode(state: dict[str, Tensor], images: Tensor, visible: Tensor) -> Tensor:
    """[B, C, H, W] → [B, C_last, h, w], zero where not visible. ``state``: the encoder's parameters, timm's names."""
    stages = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("stages."))
    side = 2 ** (stages - 1)
    m = ref.upsample_mask(visible, side, images.dtype)
    x = ref.stem(images, state["stem.0.weight"], state["stem.0.bias"], visible, side)
    if stages > 1:  # isotropic networks have no norm here
        x = ref.layer_norm(x, state["stem.1.weight"], state["stem.1.bias"], m)
    for stage in range(stages):
        down = f"stages.{stage}.downsample"
        if stage > 0:
            x = ref.layer_norm(x, state[f"{down}.0.weight"], state[f"{down}.0.bias"], m)
            x = ref.downsample(x, state[f"{down}.1.weight"], state[f"{down}.1.bias"], visible, side)
            side //= 2
            m = ref.upsample_mask(visible, side, images.dtype)
        index = 0
        while f"stages.{stage}.blocks.{index}.conv_dw.weight" in state:
            x = _block(state, f"stages.{stage}.blocks.{index}", x, visible, side)
            index += 1
    return x


def _block(state: dict[str, Tensor], name: str, x: Tensor, visible: Tensor, side: int) -> Tensor:
    m = ref.upsample_mask(visible, side, x.dtype)
    y = ref.depthwise_conv(x, state[f"{name}.conv_dw.weight"], state[f"{name}.conv_dw.bias"], visible, side)
    y = ref.layer_norm(y, state[f"{name}.norm.weight"], state[f"{name}.norm.bias"], m)
    y = F.gelu(ref.pointwise(y, state[f"{name}.mlp.fc1.weight"], state[f"{name}.mlp.fc1.bias"], m))
    if f"{name}.mlp.grn.weight" in state:
        y = ref.grn(y, state[f"{name}.mlp.grn.weight"], state[f"{name}.mlp.grn.bias"], m)
    y = ref.pointwise(y, state[f"{name}.mlp.fc2.weight"], state[f"{name}.mlp.fc2.bias"], m)
    if f"{name}.gamma" in state:
        y = y * state[f"{name}.gamma"].view(1, -1, 1, 1)
    return x + y

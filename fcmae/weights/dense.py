"""A checkpoint's encoder as a timm network, ready to use: for fine-tuning, or as a backbone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from fcmae.weights.convert import whole_encoder


def create_dense(ckpt: str | Path | Mapping[str, Tensor], num_classes: int = 0, **timm_kwargs: Any) -> nn.Module:
    """A timm ConvNeXt with a checkpoint's weights in it.

    Args:
        ckpt: as of :func:`fcmae.convert_to_dense`.
        num_classes: outputs of a fresh classifier; 0: none, the network gives features.
        timm_kwargs: for ``timm.create_model``: ``in_chans``, ``drop_path_rate``, ``features_only=True``, …

    Raises:
        ValueError: as :func:`fcmae.convert_to_dense`.
    """
    state, config = whole_encoder(ckpt)
    model = timm.create_model(config.name, num_classes=num_classes, use_grn=config.with_grn, **timm_kwargs)
    if timm_kwargs.get("features_only"):  # timm's wrapper has stem_0 and stages_0 for stem.0 and stages.0
        state = {name.replace(".", "_", 1): tensor for name, tensor in state.items()}
    model.load_state_dict(state, strict=False)
    return model

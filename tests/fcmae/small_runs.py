"""Run folders of small networks, without the training; and a smaller network for runs."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from fcmae.models import FCMAE, ModelConfig
from fcmae.models.sizes import SIZES, Size
from fcmae.runs import checkpoint as ckpt


def save_run(folder: Path, **config: Any) -> Path:
    """A run folder with one checkpoint of random weights, none of them 0 or 1."""
    described = ModelConfig(**{"img_size": 32, "stem_stride": 1, "decoder_dim": 16} | config)
    torch.manual_seed(0)
    model = FCMAE(described)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ckpt.save_checkpoint(
        folder, model, asdict(described), torch.optim.SGD(model.parameters()), ckpt.TrainState(1, 1, 1)
    )
    return folder


def shrink(setitem: Callable[[Any, str, Any], None]) -> None:
    """From now on atto has one narrow block per stage. timm's stays as it is."""
    setitem(SIZES, "convnextv2_atto", Size((1, 1, 1, 1), (8, 8, 16, 16), conv_mlp=True))

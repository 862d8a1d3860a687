"""Run folders of small networks, without the training."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from fcmae.models import FCMAE, ModelConfig
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

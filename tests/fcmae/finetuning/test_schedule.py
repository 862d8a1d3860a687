"""The learning rate of every layer at every step: the official code's, and timm's number by number."""

import math

import pytest
import timm
import torch
from timm.scheduler import create_scheduler_v2

from fcmae.finetuning.config import FinetuneConfig, FinetuneTrainConfig
from fcmae.finetuning.layer_decay import param_groups
from fcmae.finetuning.setup import make_optimizer
from fcmae.models import ModelConfig
from fcmae.training.optimizer import make_schedule

EPOCHS, WARM_UP, STEPS, PEAK, LEAST = 10, 2, 7, 0.05, 1e-4  # steps of an epoch


def official(step: int) -> float:
    """``adjust_learning_rate`` of ConvNeXt V2 and MAE, before the factor of the layer."""
    epoch = step / STEPS
    if epoch < WARM_UP:
        return PEAK * epoch / WARM_UP
    return LEAST + (PEAK - LEAST) * 0.5 * (1 + math.cos(math.pi * (epoch - WARM_UP) / (EPOCHS - WARM_UP)))


def test_every_layer_has_its_rate_at_every_step() -> None:
    model = timm.create_model("convnextv2_atto", num_classes=3)
    train = FinetuneTrainConfig(epochs=EPOCHS, warmup_epochs=WARM_UP, base_lr=0.1, min_lr=LEAST, layer_decay=0.8)
    network = ModelConfig("convnextv2_atto")
    optimizer = make_optimizer(model, network, FinetuneConfig(train=train), effective_batch=128)
    groups = param_groups(model, network.size.depths, train.weight_decay, train.layer_decay, train.layer_decay_by)
    of_timm = torch.optim.AdamW(groups, lr=PEAK, betas=train.betas)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [g["weight_decay"] for g in groups]
    ours = make_schedule(optimizer, train, total_steps=EPOCHS * STEPS)
    theirs, total = create_scheduler_v2(
        of_timm, "cosine", num_epochs=EPOCHS - WARM_UP, warmup_epochs=WARM_UP, warmup_prefix=True, warmup_lr=0.0,
        min_lr=LEAST, step_on_epochs=False, updates_per_epoch=STEPS,
    )  # fmt: skip
    assert total == EPOCHS
    assert theirs is not None
    scales = {group["lr_scale"] for group in optimizer.param_groups}
    assert len(scales) == 13  # 12 blocks, and the head
    for step in range(EPOCHS * STEPS):
        ours.step_update(step)
        theirs.step_update(step)
        for group, same in zip(optimizer.param_groups, of_timm.param_groups, strict=True):
            assert group["lr"] == same["lr"]
            assert group["lr"] == pytest.approx(official(step) * group["lr_scale"], rel=1e-12)

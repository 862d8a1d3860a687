"""AdamW with the paper's parameter groups, and the learning rate schedule."""

from typing import Protocol

import torch
from timm.optim import param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from torch import nn

from fcmae.config import TrainConfig
from fcmae.training.batch import peak_learning_rate


class ScheduleSettings(Protocol):
    """The settings of the schedule."""

    @property
    def epochs(self) -> int:
        """Passes over the images."""

    @property
    def warmup(self) -> float:
        """Epochs of linear warm-up."""

    @property
    def min_lr(self) -> float:
        """Learning rate at the end."""


def make_optimizer(model: nn.Module, train: TrainConfig, effective_batch: int) -> torch.optim.AdamW:
    """AdamW at the peak learning rate. No decay of vectors: biases, norms, GRN, LayerScale, the mask token."""
    groups = param_groups_weight_decay(model, weight_decay=train.weight_decay)
    return torch.optim.AdamW(groups, lr=peak_learning_rate(train, effective_batch), betas=train.betas, fused=True)


def make_schedule(optimizer: torch.optim.Optimizer, train: ScheduleSettings, total_steps: int) -> CosineLRScheduler:
    """Linear warm-up from 0, then cosine decay to min_lr. ``step_update(step)`` sets the learning rate of any step."""
    warmup_steps = min(round(train.warmup / train.epochs * total_steps), total_steps - 1)
    return CosineLRScheduler(
        optimizer,
        t_initial=total_steps - warmup_steps,
        lr_min=train.min_lr,
        warmup_t=warmup_steps,
        warmup_prefix=True,
        t_in_epochs=False,
    )

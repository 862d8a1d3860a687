"""AdamW with the paper's parameter groups, and its learning rate step by step."""

import torch
from timm.optim import param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from torch import nn

from fcmae.config import TrainConfig

BASE_BATCH = 256  # the batch that base_lr is meant for


def make_optimizer(model: nn.Module, train: TrainConfig, effective_batch: int) -> torch.optim.AdamW:
    """AdamW at base_lr × effective batch / 256; no decay on vectors: biases, norms, GRN, LayerScale, the mask token."""
    groups = param_groups_weight_decay(model, weight_decay=train.weight_decay)
    return torch.optim.AdamW(groups, lr=train.base_lr * effective_batch / BASE_BATCH, betas=train.betas, fused=True)


def make_schedule(optimizer: torch.optim.Optimizer, train: TrainConfig, total_steps: int) -> CosineLRScheduler:
    """Linear warm-up from 0, then half a cosine to min_lr; ``step_update(step)`` sets the rate of any step."""
    warmup_steps = min(round(train.warmup_epochs / train.epochs * total_steps), total_steps - 1)
    return CosineLRScheduler(
        optimizer,
        t_initial=total_steps - warmup_steps,
        lr_min=train.min_lr,
        warmup_t=warmup_steps,
        warmup_prefix=True,
        t_in_epochs=False,
    )

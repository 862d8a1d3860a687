"""Layer norm whose gradients do not wait for the library where that is slow."""

from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fcmae.sparse.compiled import loops_for

LIBRARY_WIDTH = 16  # channels: on a CPU its gradients take twice the time where rows are no multiple of them


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """``F.layer_norm`` over the last axis; [..., C] → the same."""
    if x.shape[-1] % LIBRARY_WIDTH and x.ndim == 2 and x.device.type == "cpu":
        loops = None if torch.is_autocast_enabled("cpu") else loops_for(x, weight, bias)
        if loops:
            return _LayerNorm.apply(x, weight, bias, eps, loops)
    return F.layer_norm(x, weight.shape, weight, bias, eps)


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, loops: ModuleType) -> Tensor:
        y, mean, rstd = torch.native_layer_norm(x, weight.shape, weight, bias, eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        ctx.loops = loops
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        return *ctx.loops.layer_norm_grad(dy, *ctx.saved_tensors), None, None

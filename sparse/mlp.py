"""Linear → GELU → GRN → Linear as one function, for CPUs: fewer passes over its wide tensor than layer by layer.

Where Numba is installed, compiled loops do what lies between the matrix products (see :mod:`fcmae.sparse.loops`): two
passes forward, two backward, and of the wide tensors two are kept instead of three. Without Numba, and in bfloat16,
images with many sites take the way of :mod:`fcmae.sparse.mlp_by_image`. All else goes layer by layer.
"""

from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fcmae.sparse.compiled import loops_for
from fcmae.sparse.mlp_by_image import SITES_PER_CHANNEL, grn_mlp_by_image
from fcmae.sparse.response_norm import EPS, grn

NARROW = 128  # channels


def grn_mlp(
    x: Tensor, fc1_weight: Tensor, fc1_bias: Tensor | None, grn_weight: Tensor, grn_bias: Tensor, fc2_weight: Tensor,
    fc2_bias: Tensor | None, batch_size: int, rows: Tensor | None = None, shortcut: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """shortcut + fc2(grn(gelu(fc1(x)))), by the way that is the fastest one here; same numbers.

    Args:
        x: [B·M, C], the M sites of an image together.
        fc1_weight: [H, C]; fc1_bias: [H].
        grn_weight: γ, [H]; grn_bias: β, [H].
        fc2_weight: [C_out, H]; fc2_bias: [C_out].
        batch_size: B.
        rows: int64 [R], those of the result that are wanted, each once; None: all. GRN looks at every site.
        shortcut: added to the result, of its shape; None: nothing.

    Returns:
        [B·M, C_out], or [R, C_out]. Under autocast, in its dtype.

    Raises:
        ValueError: a Linear layer without a bias, one of the three vectors of another length than H, or a shortcut of
            another shape than the result.
    """
    if fc1_bias is None or fc2_bias is None:
        raise ValueError("both Linear layers need a bias")
    if not fc1_bias.shape == grn_weight.shape == grn_bias.shape == fc1_weight.shape[:1]:
        shapes = ", ".join(str(list(t.shape)) for t in (fc1_bias, grn_weight, grn_bias))
        raise ValueError(f"the first bias, γ and β must be {list(fc1_weight.shape[:1])}, got {shapes}")
    shape = (len(x if rows is None else rows), len(fc2_weight))
    if shortcut is not None and shortcut.shape != shape:
        raise ValueError(f"the shortcut must be {list(shape)}, got {list(shortcut.shape)}")
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        args = (x, fc1_weight, fc1_bias, grn_weight, grn_bias, fc2_weight, fc2_bias)
        loops = None if torch.is_autocast_enabled("cpu") else loops_for(*args, x if shortcut is None else shortcut)
        if loops:
            return _CompiledGRNMlp.apply(*args, batch_size, rows, shortcut, loops)
        if rows is None and x.shape[0] >= SITES_PER_CHANNEL * batch_size * fc2_weight.shape[0]:
            out = grn_mlp_by_image(*args, batch_size)
            return out if shortcut is None else shortcut + out
    wide = grn(F.gelu(F.linear(x, fc1_weight, fc1_bias)), grn_weight, grn_bias, batch_size)
    out = F.linear(wide if rows is None else wide.index_select(0, rows), fc2_weight, fc2_bias)
    return out if shortcut is None else shortcut + out


class _CompiledGRNMlp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, gamma: Tensor, beta: Tensor, w2: Tensor, b2: Tensor,
        batch: int, rows: Tensor | None, shortcut: Tensor | None, loops: ModuleType,
    ) -> Tensor:  # fmt: skip
        h_BMH = (x @ w1.t()).view(batch, -1, len(w1))
        y_BMH, norm_BH = loops.gelu_grn(h_BMH, b1, gamma, beta, EPS)
        y = y_BMH.flatten(0, 1)
        if rows is not None:
            y = y.index_select(0, rows)
        ctx.save_for_backward(x, w1, b1, gamma, w2, h_BMH, y, norm_BH, rows)
        ctx.loops = loops
        # the product is added to what is there: to the bias, or to the shortcut with it, in one pass less
        return torch.addmm(b2, y, w2.t()) if shortcut is None else (shortcut + b2).addmm_(y, w2.t())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, w1, b1, gamma, w2, h_BMH, y, norm_BH, rows = ctx.saved_tensors
        dw2, db2 = dout.t() @ y, dout.sum(0)
        dy = dout @ w2
        if rows is not None:
            dy = dy.new_zeros(len(x), len(w1)).index_copy_(0, rows, dy)
        dh_BMH, db1, dgamma, dbeta = ctx.loops.gelu_grn_grad_(dy.view_as(h_BMH), h_BMH, b1, gamma, norm_BH, EPS)
        dh = dh_BMH.flatten(0, 1)
        dx = dh @ w1 if ctx.needs_input_grad[0] else None
        # a narrow layer's the other way round, in three quarters of the time; a wide one's must then be copied into
        # the order of its weight, which takes longer than the product gains
        dw1 = (x.t() @ dh).t() if x.shape[1] < NARROW else dh.t() @ x
        return dx, dw1, db1, dgamma, dbeta, dw2, db2, None, None, dout if ctx.needs_input_grad[9] else None, None

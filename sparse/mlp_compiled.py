"""Linear → GELU → GRN → Linear with compiled loops between the matrix products (see :mod:`fcmae.sparse.loops`).

Of the wide tensors two are kept. Where an image has several times as many sites as the layer has channels, GRN goes
into the second Linear's weights, as :mod:`fcmae.sparse.mlp_by_image` explains: of the two passes over the wide tensor,
forward and backward, one is left.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fcmae.sparse.response_norm import EPS

NARROW = 128  # channels
MANY_SITES = 4  # per channel: from here on the second Linear's weights, scaled for each image, cost less than a pass


def compiled_grn_mlp(
    x: Tensor, fc1_weight: Tensor, fc1_bias: Tensor, grn_weight: Tensor, grn_bias: Tensor, fc2_weight: Tensor,
    fc2_bias: Tensor, batch_size: int, rows: Tensor | None, shortcut: Tensor | None, loops: ModuleType,
) -> Tensor:  # fmt: skip
    """See :func:`fcmae.sparse.grn_mlp`."""
    args = (x, fc1_weight, fc1_bias, grn_weight, grn_bias, fc2_weight, fc2_bias, batch_size)
    if rows is None and len(x) >= MANY_SITES * batch_size * len(fc2_weight):
        return _GRNInWeights.apply(*args, shortcut, loops)
    return _MlpByLoops.apply(*args, rows, shortcut, loops)


class _MlpByLoops(torch.autograd.Function):
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
        dh_BMH, db1, dgamma = ctx.loops.gelu_grn_grad_(dy.view_as(h_BMH), h_BMH, b1, gamma, norm_BH, EPS)
        dx, dw1 = _linear_grads(dh_BMH.flatten(0, 1), x, w1, ctx.needs_input_grad[0])
        dshortcut = dout if ctx.needs_input_grad[9] else None
        return dx, dw1, db1, dgamma, db2 @ w2, dw2, db2, None, None, dshortcut, None


class _GRNInWeights(torch.autograd.Function):
    """out_b = g_b (a_b · W₂)ᵀ + (W₂ β + b₂), a_b what GRN multiplies each channel of an image with, g = GELU."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, gamma: Tensor, beta: Tensor, w2: Tensor, b2: Tensor,
        batch: int, shortcut: Tensor | None, loops: ModuleType,
    ) -> Tensor:  # fmt: skip
        h_BMH = (x @ w1.t()).view(batch, -1, len(w1))
        g_BMH, norm_BH, scale_BH = loops.gelu_and_scale(h_BMH, b1, gamma, EPS)
        ctx.save_for_backward(x, w1, b1, gamma, beta, w2, h_BMH, g_BMH, norm_BH, scale_BH)
        ctx.loops = loops
        bias, scaled_BHO = torch.addmv(b2, w2, beta), (w2 * scale_BH[:, None]).transpose(1, 2)
        out = x.new_empty(len(x), len(w2)) if shortcut is None else shortcut + bias
        out_BMO = out.view(batch, -1, len(w2))
        torch.baddbmm(bias if shortcut is None else out_BMO, g_BMH, scaled_BHO, out=out_BMO)
        return out  # not a view of it, which autograd would not let the caller write to

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, w1, b1, gamma, beta, w2, h_BMH, g_BMH, norm_BH, scale_BH = ctx.saved_tensors
        dout_BMO = dout.reshape(len(h_BMH), -1, len(w2))
        p_BOH, db2 = torch.bmm(dout_BMO.transpose(1, 2), g_BMH), dout.sum(0)
        dw2 = (p_BOH * scale_BH[:, None]).sum(0).addr_(db2, beta)
        dy_g_BH = (p_BOH * w2).sum(1)
        dy_BMH = torch.bmm(dout_BMO, w2 * scale_BH[:, None])
        dh_BMH, db1, dgamma = ctx.loops.gelu_grn_grad_(dy_BMH, h_BMH, b1, gamma, norm_BH, EPS, dy_g_BH)
        dx, dw1 = _linear_grads(dh_BMH.flatten(0, 1), x, w1, ctx.needs_input_grad[0])
        dshortcut = dout if ctx.needs_input_grad[8] else None
        return dx, dw1, db1, dgamma, db2 @ w2, dw2, db2, None, dshortcut, None


def _linear_grads(dh: Tensor, x: Tensor, weight: Tensor, needs_dx: bool) -> tuple[Tensor | None, Tensor]:
    """The gradients to a Linear layer's input and weight.

    A narrow layer's weight gradient is computed the other way round, in three quarters of the time. A wide one's would
    then have to be copied into the order of its weight, which takes longer than the product gains.
    """
    dweight = (x.t() @ dh).t() if x.shape[1] < NARROW else dh.t() @ x
    return dh @ weight if needs_dx else None, dweight

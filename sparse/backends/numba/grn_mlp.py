"""Linear → GELU → GRN → Linear with CPU kernels between the matrix products. Two wide tensors are kept for backward.

Without GRN (ConvNeXt V1) nothing but GELU is left between them.

GRN multiplies each channel of an image by a number and adds another. Where an image has several times as many sites as
the layer has channels, both go into the second Linear's weights, image by image, and GRN's output never exists:

    out_b = (a_b · g_b + β) W₂ᵀ + b₂ = g_b (a_b · W₂)ᵀ + (W₂ β + b₂)          a_b = 1 + γ · n_b,  g = GELU(h)

Backward, P_b = d_outᵀ_b g_b, which the gradient of W₂ needs in any case, holds GRN's own sums too: Σ over sites of
dy · g = Σ over rows of W₂ · P_b. One pass over the wide tensor is left each way, of two.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fcmae.sparse.backends import pytorch
from fcmae.sparse.backends.numba.gelu import gelu, gelu_grad_
from fcmae.sparse.backends.numba.gelu_grn import gelu_grn, gelu_grn_grad_
from fcmae.sparse.backends.numba.guards import can_run
from fcmae.sparse.backends.operations import MlpWeights, check_mlp

NARROW = 128  # channels
MANY_SITES = 4  # per channel: from here on scaling the second Linear's weights for each image costs less than a pass


def mlp(
    x: Tensor, weights: MlpWeights, batch_size: int, rows: Tensor | None = None, shortcut: Tensor | None = None
) -> Tensor:
    """See :func:`fcmae.sparse.backends.pytorch.mlp`."""
    if not can_run(x, *weights, shortcut):
        return pytorch.mlp(x, weights, batch_size, rows, shortcut)
    check_mlp(x, weights, rows, shortcut)
    if weights.grn_weight is None or weights.grn_bias is None:
        w1, b1, _, _, w2, b2 = weights
        return _NoGRN.apply(x if rows is None else x.index_select(0, rows), shortcut, w1, b1, w2, b2)
    if rows is None and len(x) >= MANY_SITES * batch_size * len(weights.fc2_weight):
        return _GRNInWeights.apply(x, shortcut, batch_size, *weights)
    return _GRNByKernel.apply(x, shortcut, batch_size, rows, *weights)


class _GRNByKernel(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, shortcut: Tensor | None, batch: int, rows: Tensor | None, *weights: Tensor
    ) -> Tensor:
        w1, b1, gamma, beta, w2, b2 = weights
        h_BMH = (x @ w1.t()).view(batch, -1, len(w1))
        y_BMH, norm_BH, _ = gelu_grn(h_BMH, b1, gamma, beta, pytorch.GRN_EPS)
        y = y_BMH.flatten(0, 1)
        if rows is not None:
            y = y.index_select(0, rows)
        ctx.save_for_backward(x, w1, b1, gamma, w2, h_BMH, y, norm_BH, rows)
        # the product is added to the bias, or to the shortcut with it: one pass less
        return torch.addmm(b2, y, w2.t()) if shortcut is None else (shortcut + b2).addmm_(y, w2.t())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, w1, b1, gamma, w2, h_BMH, y, norm_BH, rows = ctx.saved_tensors
        dw2, db2 = dout.t() @ y, dout.sum(0)
        dy = dout @ w2
        if rows is not None:
            dy = dy.new_zeros(len(x), len(w1)).index_copy_(0, rows, dy)
        dh_BMH, db1, dgamma = gelu_grn_grad_(dy.view_as(h_BMH), h_BMH, b1, gamma, norm_BH, pytorch.GRN_EPS)
        dx, dw1 = _linear_grads(dh_BMH.flatten(0, 1), x, w1, ctx.needs_input_grad[0])
        return dx, dout if ctx.needs_input_grad[1] else None, None, None, dw1, db1, dgamma, db2 @ w2, dw2, db2


class _GRNInWeights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shortcut: Tensor | None, batch: int, *weights: Tensor) -> Tensor:
        w1, b1, gamma, beta, w2, b2 = weights
        h_BMH = (x @ w1.t()).view(batch, -1, len(w1))
        g_BMH, norm_BH, scale_BH = gelu_grn(h_BMH, b1, gamma, None, pytorch.GRN_EPS)
        ctx.save_for_backward(x, w1, b1, gamma, beta, w2, h_BMH, g_BMH, norm_BH, scale_BH)
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
        dh_BMH, db1, dgamma = gelu_grn_grad_(dy_BMH, h_BMH, b1, gamma, norm_BH, pytorch.GRN_EPS, dy_g_BH)
        dx, dw1 = _linear_grads(dh_BMH.flatten(0, 1), x, w1, ctx.needs_input_grad[0])
        return dx, dout if ctx.needs_input_grad[1] else None, None, dw1, db1, dgamma, db2 @ w2, dw2, db2


class _NoGRN(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shortcut: Tensor | None, *weights: Tensor) -> Tensor:
        w1, b1, w2, b2 = weights
        h = x @ w1.t()
        g = gelu(h, b1)
        ctx.save_for_backward(x, w1, b1, w2, h, g)
        return torch.addmm(b2, g, w2.t()) if shortcut is None else (shortcut + b2).addmm_(g, w2.t())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, w1, b1, w2, h, g = ctx.saved_tensors
        dh, db1 = gelu_grad_(dout @ w2, h, b1)
        dx, dw1 = _linear_grads(dh, x, w1, ctx.needs_input_grad[0])
        return dx, dout if ctx.needs_input_grad[1] else None, dw1, db1, dout.t() @ g, dout.sum(0)


def _linear_grads(dh: Tensor, x: Tensor, weight: Tensor, needs_dx: bool) -> tuple[Tensor | None, Tensor]:
    """The gradients to a Linear layer's input and weight.

    A narrow layer's weight gradient is faster transposed. A wide one's would then have to be copied into the order of
    its weight, which takes longer than the product gains.
    """
    dweight = (x.t() @ dh).t() if x.shape[1] < NARROW else dh.t() @ x
    return dh @ weight if needs_dx else None, dweight

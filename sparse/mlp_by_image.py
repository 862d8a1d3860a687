"""Linear → GELU → GRN → Linear with GRN in the second Linear's weights, for CPUs where no compiled loops apply.

GRN multiplies each channel of an image by a number and adds another (see :mod:`fcmae.sparse.response_norm`); both can
go into the second Linear's weights, image by image:

    out_b = (a_b · g_b + β) W₂ᵀ + b₂ = g_b (a_b · W₂)ᵀ + (W₂ β + b₂)          a_b = 1 + γ · n_b,  g = GELU(h)

so GRN's output never exists. Backward, P_b = d_outᵀ_b g_b, which the gradient of W₂ needs in any case, holds GRN's own
sums too: Σ over sites of dy · g = Σ over rows of W₂ · P_b. Of the wide tensors h alone is kept; g is computed again.
Images are taken a few at a time, so that what one pass writes is still in the cache when the next one reads it.

That is worth it where an image has many more sites than the layer has channels, for W₂ is scaled once an image. On 2
cores it took 0.5 to 0.7 of the time of the layers one by one (benchmarks/encoder.py has the whole network).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fcmae.sparse.ops import autocast_args
from fcmae.sparse.response_norm import normed_of, response_norm, scale_of, through_norm_of

CHUNK_BYTES = 6 << 20  # of h: a few times this should fit the caches of two cores
SITES_PER_CHANNEL = 2  # from here on scaling W₂ for each image costs less than a pass over the wide tensor


def grn_mlp_by_image(
    x: Tensor, fc1_weight: Tensor, fc1_bias: Tensor, grn_weight: Tensor, grn_bias: Tensor, fc2_weight: Tensor,
    fc2_bias: Tensor, batch_size: int,
) -> Tensor:  # fmt: skip
    """See :func:`fcmae.sparse.grn_mlp`."""
    # γ and β stay as they are, as in the layers one by one
    x, fc1_weight, fc1_bias = autocast_args(x, fc1_weight, fc1_bias)
    x, fc2_weight, fc2_bias = autocast_args(x, fc2_weight, fc2_bias)
    sites = x.shape[0] // batch_size
    images = max(1, min(batch_size, CHUNK_BYTES // (sites * fc1_weight.shape[0] * x.element_size())))
    return _GRNMlp.apply(
        x, fc1_weight, fc1_bias, grn_weight, grn_bias, fc2_weight, fc2_bias, batch_size, images
    )  # fmt: skip


class _GRNMlp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, gamma: Tensor, beta: Tensor, w2: Tensor, b2: Tensor,
        batch: int, images: int,
    ) -> Tensor:  # fmt: skip
        sites, hidden = len(x) // batch, len(w1)
        out = x.new_empty(len(x), len(w2))
        h_BMH = x.new_empty(batch, sites, hidden)
        norm_B1H = x.new_empty(batch, 1, hidden, dtype=torch.promote_types(x.dtype, torch.float32))
        g_bMH = x.new_empty(images, sites, hidden)
        bias = torch.addmv(b2, w2, beta.to(w2.dtype))
        for rows, some in _chunks(batch, images, sites):
            h, norm = h_BMH[some], norm_B1H[some]
            g = g_bMH[: len(h)]
            torch.addmm(b1, x[rows], w1.t(), out=h.flatten(0, 1))
            torch.ops.aten.gelu.out(h, out=g)
            norm.copy_(response_norm(g))
            scaled_bOH = w2 * scale_of(gamma, norm).to(x.dtype)
            torch.baddbmm(bias, g, scaled_bOH.transpose(1, 2), out=out[rows].view(len(h), sites, -1))
        ctx.save_for_backward(x, w1, gamma, beta, w2, h_BMH, norm_B1H)
        ctx.images = images
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, w1, gamma, beta, w2, h_BMH, norm_B1H = ctx.saved_tensors
        batch, sites, hidden = h_BMH.shape
        wide = norm_B1H.dtype
        db2 = dout.sum(0, dtype=wide)
        dw2 = torch.outer(db2, beta.to(wide))
        dw1, db1 = w1.new_zeros(w1.shape, dtype=wide), w1.new_zeros(hidden, dtype=wide)
        dgamma, dbeta = w1.new_zeros(hidden, dtype=wide), w2.to(wide).t() @ db2
        dx = torch.empty_like(x)
        dout = dout.contiguous()
        g_bMH, dh_bMH = x.new_empty(2, ctx.images, sites, hidden)
        ones = x.new_ones(ctx.images * sites)
        for rows, some in _chunks(batch, ctx.images, sites):
            h, norm = h_BMH[some], norm_B1H[some]
            g, dh = g_bMH[: len(h)], dh_bMH[: len(h)]
            torch.ops.aten.gelu.out(h, out=g)
            dout_bMO = dout[rows].view(len(h), sites, -1)
            scale = scale_of(gamma, norm)
            p_bOH = torch.bmm(dout_bMO.transpose(1, 2), g).to(wide)
            dyg_b1H = (p_bOH * w2).sum(1, keepdim=True)
            dw2 += (p_bOH * scale).sum(0)
            dgamma += (dyg_b1H * normed_of(norm)).sum((0, 1))
            # dg = a · (dout W₂) + through · g, then back through GELU, all in one buffer
            torch.mul(g, through_norm_of(gamma * dyg_b1H, norm, g.dtype), out=dh)
            dh.baddbmm_(dout_bMO, w2 * scale.to(w2.dtype))
            torch.ops.aten.gelu_backward.grad_input(dh, h, grad_input=dh)
            dh_rows = dh.flatten(0, 1)
            dw1 += dh_rows.t() @ x[rows]
            db1 += dh_rows.t() @ ones[: len(dh_rows)]
            torch.mm(dh_rows, w1, out=dx[rows])
        dw1, db1, dw2, db2 = (grad.to(w1.dtype) for grad in (dw1, db1, dw2, db2))
        return dx, dw1, db1, dgamma.to(gamma.dtype), dbeta.to(beta.dtype), dw2, db2, None, None


def _chunks(batch: int, images: int, sites: int) -> list[tuple[slice, slice]]:
    """(rows, images) of each chunk."""
    starts = range(0, batch, images)
    return [(slice(i * sites, min(i + images, batch) * sites), slice(i, i + images)) for i in starts]

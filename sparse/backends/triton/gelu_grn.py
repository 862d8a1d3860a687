"""GELU and GRN between the products of the MLP as operators. ``gelu_grn_kernels.py`` explains the kernels.

``h`` is [B·M, H], the first Linear's product without its bias, contiguous; ``bias``, γ and β are [H].
"""

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.library import custom_op

from fcmae.sparse.backends.pytorch import GRN_EPS
from fcmae.sparse.backends.triton.gelu_grn_kernels import (
    gelu_grad_kernel,
    gelu_kernel,
    grn_kernel,
    grn_sums_kernel,
    scale_kernel,
    through_kernel,
)
from fcmae.sparse.backends.triton.grn_weights import grn_weights_grad_op
from fcmae.sparse.backends.triton.launch import Launch, interpreting, next_power_of_2

TILE = 2048  # values, sixteen a thread
FEW_SITES = 64
"""Sites of an image below which a tile is four of them high, else sixteen or more."""
STEPS = 5
"""Tiles that a program goes through, at most: the size of a part of an image."""


class Tiling(NamedTuple):
    """How [B·M, H] is cut: into parts of images, and blocks of channels."""

    batch: int
    sites: int
    hidden: int
    parts: int
    constants: dict[str, int]

    def wide(self, kernel: Any, **constants: Any) -> Launch:
        """One of the kernels that go over the whole tensor."""
        grid = self.parts, triton.cdiv(self.hidden, self.constants["BLOCK"]), self.batch
        return Launch(kernel, grid, {**constants, **self.constants}, num_warps=4)

    def of_images(self, kernel: Any) -> Launch:
        """One of the kernels that work on statistics, an image a program."""
        return Launch(kernel, (self.batch,), {"HIDDEN": self.hidden, "BLOCK": next_power_of_2(self.hidden)}, 8)


def tiling(rows: int, hidden: int, batch: int) -> Tiling:
    """Blocks of channels that leave few lanes idle, and tiles that fit the number of sites."""
    sites = rows // batch
    blocks = (512, 256, 128) if sites < FEW_SITES else (128, 64, 32)
    block = min(blocks, key=lambda block: triton.cdiv(hidden, block) * block)
    high = TILE // block
    if interpreting():
        block, high = next_power_of_2(hidden), next_power_of_2(sites)
    tiles = triton.cdiv(sites, high)
    parts = triton.cdiv(tiles, STEPS)
    constants = {"HIDDEN": hidden, "BLOCK": block, "ROWS": high, "STEPS": triton.cdiv(tiles, parts)}
    return Tiling(batch, sites, hidden, parts, constants)


def gelu_and_scale(h: Tensor, bias: Tensor, gamma: Tensor, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """g = GELU(h + bias), and float32 [B, H]: its norms over an image's sites, and GRN's factor 1 + γ · n."""
    tiles = tiling(len(h), h.shape[1], batch)
    g, squares = torch.empty_like(h), h.new_empty(batch, tiles.parts, h.shape[1], dtype=torch.float32)
    norm, scale = (h.new_empty(batch, h.shape[1], dtype=torch.float32) for _ in range(2))
    tiles.wide(gelu_kernel)(h, bias, g, squares, tiles.sites)
    tiles.of_images(scale_kernel)(squares, gamma, norm, scale, tiles.parts, GRN_EPS)
    return g, norm, scale


@custom_op("fcmae::gelu_grn", mutates_args=())
def gelu_grn_op(h: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """GRN(GELU(h + bias)), and the norms, float32 [B, H]."""
    y, norm, scale = gelu_and_scale(h, bias, gamma, batch)
    tiles = tiling(len(h), h.shape[1], batch)
    tiles.wide(grn_kernel)(y, scale, beta, tiles.sites)
    return y, norm


@custom_op("fcmae::gelu_grn_grad", mutates_args=())
def gelu_grn_grad_op(
    dy: Tensor, h: Tensor, bias: Tensor, gamma: Tensor, norm: Tensor, dy_g: Tensor | None
) -> tuple[Tensor, Tensor]:
    """dh, and the gradients to bias, γ and β, float32 [3, H].

    With ``dy_g`` (float32 [B, H], the sum of dy · g over each image's sites) ``dy`` must be multiplied by 1 + γ · n
    already; the gradients are then those to bias and γ, [2, H].
    """
    batch, hidden = norm.shape
    tiles = tiling(len(h), hidden, batch)
    scaled = dy_g is not None
    sums = h.new_empty(2 if scaled else 3, batch, tiles.parts, hidden, dtype=torch.float32)
    dh, scale, through = torch.empty_like(h), torch.empty_like(norm), torch.empty_like(norm)
    if not scaled:
        dy_g = torch.empty_like(sums[0])
        tiles.wide(grn_sums_kernel)(dy, h, bias, dy_g, sums[2], tiles.sites)
    parts = 1 if scaled else tiles.parts
    statistics = tiles.of_images(through_kernel)
    statistics(dy_g, gamma, norm, scale, through, sums[1], parts, tiles.parts, GRN_EPS)
    tiles.wide(gelu_grad_kernel, SCALED=scaled)(dy, h, bias, scale, through, dh, sums[0], tiles.sites)
    return dh, sums.sum((1, 2))


@custom_op("fcmae::gelu_grn_linear", mutates_args=())
def gelu_grn_linear_op(
    h: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor, w2: Tensor, b2: Tensor, shortcut: Tensor | None, batch: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """shortcut + GRN(GELU(h + bias)) w2ᵀ + b2 with GRN in the weights, image by image; and g, the norms, GRN's factor.

    (a_b · g_b + β) w2ᵀ + b2 = g_b (a_b · w2)ᵀ + (w2 β + b2). w2 [C_out, H], b2 and shortcut are of the type of h. The
    product is added to what is there already: the shortcut costs no pass of its own.
    """
    g, norm, scale = gelu_and_scale(h, bias, gamma, batch)
    scaled_BHO = scale_weights(w2, scale).transpose(1, 2)
    with torch.autocast(h.device.type, enabled=False):  # which reaches into operators, and would round the sum
        bias_O, out = torch.addmv(b2.float(), w2.float(), beta.float()), h.new_empty(len(h), len(w2))
    if shortcut is None:
        out.copy_(bias_O)
    else:
        torch.add(shortcut, bias_O, out=out)
    out.view(batch, -1, len(w2)).baddbmm_(g.view(batch, -1, h.shape[1]), scaled_BHO)
    return out, g, norm, scale


def scale_weights(w2: Tensor, scale: Tensor) -> Tensor:
    """a_b · w2 for every image, [B, C_out, H], in the type of w2."""
    return torch.mul(w2, scale[:, None], out=w2.new_empty(len(scale), *w2.shape))


@gelu_grn_op.register_fake
def _(h: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(h), h.new_empty(batch, h.shape[1], dtype=torch.float32)


@gelu_grn_grad_op.register_fake
def _(dy: Tensor, h: Tensor, bias: Tensor, gamma: Tensor, norm: Tensor, dy_g: Tensor | None) -> tuple[Tensor, Tensor]:
    return torch.empty_like(h), h.new_empty(3 if dy_g is None else 2, h.shape[1], dtype=torch.float32)


@gelu_grn_linear_op.register_fake
def _(
    h: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor, w2: Tensor, b2: Tensor, shortcut: Tensor | None, batch: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    norm = h.new_empty(batch, h.shape[1], dtype=torch.float32)
    return h.new_empty(len(h), len(w2)), torch.empty_like(h), norm, torch.empty_like(norm)


def _save(ctx: Any, inputs: tuple, output: tuple) -> None:
    h, bias, gamma, beta, _ = inputs
    ctx.save_for_backward(h, bias, gamma, output[1])
    ctx.beta_dtype = beta.dtype
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if dy is None:
        return (None,) * 5
    h, bias, gamma, norm = ctx.saved_tensors
    dh, (dbias, dgamma, dbeta) = gelu_grn_grad_op(dy.contiguous(), h, bias, gamma, norm, None)
    return dh, dbias.to(bias.dtype), dgamma.to(gamma.dtype), dbeta.to(ctx.beta_dtype), None


def _save_linear(ctx: Any, inputs: tuple, output: tuple) -> None:
    h, bias, gamma, beta, w2, *_ = inputs
    ctx.save_for_backward(h, bias, gamma, beta, w2, *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _backward_linear(ctx: Any, dout: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    """P_b = d_outᵀ_b g_b gives the gradient to w2, and GRN's sums: Σ over sites of dy · g = Σ over rows of w2 · P_b."""
    if dout is None:
        return (None,) * 8
    h, bias, gamma, beta, w2, g, norm, scale = ctx.saved_tensors
    dout_BMO = dout.reshape(len(norm), -1, len(w2))
    p_BOH = torch.bmm(dout_BMO.transpose(1, 2), g.view(len(norm), -1, h.shape[1]))
    db2 = dout.sum(0, dtype=torch.float32)
    dw2, dy_g_BH = grn_weights_grad_op(p_BOH, w2.contiguous(), scale)
    dy = torch.bmm(dout_BMO, scale_weights(w2, scale)).view(h.shape)
    dh, (dbias, dgamma) = gelu_grn_grad_op(dy, h, bias, gamma, norm, dy_g_BH)
    grads = dbias.to(bias.dtype), dgamma.to(gamma.dtype), (db2 @ w2.float()).to(beta.dtype)
    dw2 = dw2.addr(db2, beta.float())
    return dh, *grads, dw2.to(w2.dtype), db2.to(w2.dtype), dout if ctx.needs_input_grad[6] else None, None


gelu_grn_op.register_autograd(_backward, setup_context=_save)
gelu_grn_linear_op.register_autograd(_backward_linear, setup_context=_save_linear)

"""Gradients where GRN is in the second Linear's weights: what follows from P_b = d_outᵀ_b g_b, in one pass over it."""

# mypy: disable-error-code="no-untyped-def"
# Triton compiles the kernel; it is Python in appearance alone.

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import custom_op

from fcmae.sparse.backends.triton.launch import Launch, interpreting, next_power_of_2

CHUNKS = 16
"""Groups of images, at most; each leaves a share of the weights' gradient."""


@triton.jit(do_not_specialize=["batch", "per_program"])
def weights_grad_kernel(
    p_ptr, w2_ptr, scale_ptr, dy_g_ptr, dweight_ptr, batch, per_program,
    OUT: tl.constexpr, HIDDEN: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dy_g[b] = Σ over rows of weight · P_b; dweight = Σ over this program's images of P_b · scale_b.

    One program: ``per_program`` images × BLOCK channels. p [B, OUT, HIDDEN]; weight [OUT, HIDDEN]; scale, dy_g float32
    [B, HIDDEN]; dweight float32 [programs, OUT, HIDDEN]. ROWS is a power of two, at least OUT.
    """
    row, channel = tl.arange(0, ROWS), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_channel = channel < HIDDEN
    there = (row < OUT)[:, None] & is_channel[None, :]
    at = row[:, None] * HIDDEN + channel[None, :]
    weight = tl.load(w2_ptr + at, mask=there, other=0).to(tl.float32)
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    for step in range(per_program):
        image = tl.program_id(0) * per_program + step
        is_image = image < batch
        p = tl.load(p_ptr + image.to(tl.int64) * (OUT * HIDDEN) + at, mask=there & is_image, other=0).to(tl.float32)
        scale = tl.load(scale_ptr + image * HIDDEN + channel, mask=is_channel & is_image, other=0)
        total += p * scale[None, :]
        tl.store(dy_g_ptr + image * HIDDEN + channel, tl.sum(p * weight, axis=0), mask=is_channel & is_image)
    tl.store(dweight_ptr + tl.program_id(0).to(tl.int64) * (OUT * HIDDEN) + at, total, mask=there)


def weights_grad_launch(batch: int, out: int, hidden: int) -> tuple[Launch, int]:
    """Sixteen values a thread; and images of a program."""
    block = next_power_of_2(hidden) if interpreting() else 32
    rows, per_program = next_power_of_2(out), triton.cdiv(batch, CHUNKS)
    constants = {"OUT": out, "HIDDEN": hidden, "ROWS": rows, "BLOCK": block}
    grid = triton.cdiv(batch, per_program), triton.cdiv(hidden, block)
    return Launch(weights_grad_kernel, grid, constants, min(max(rows * block // 512, 1), 16)), per_program


@custom_op("fcmae::grn_weights_grad", mutates_args=())
def grn_weights_grad_op(p: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """p [B, C_out, H], weight [C_out, H], scale float32 [B, H], all contiguous.

    Returns the gradient to the weights through P, float32 [C_out, H], and GRN's sums of dy · g, float32 [B, H].
    """
    launch, per_program = weights_grad_launch(*p.shape)
    dy_g, dweight = torch.empty_like(scale), scale.new_empty(launch.grid[0], *weight.shape)
    launch(p, weight, scale, dy_g, dweight, len(p), per_program)
    return dweight.sum(0), dy_g


@grn_weights_grad_op.register_fake
def _(p: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    return scale.new_empty(weight.shape), torch.empty_like(scale)

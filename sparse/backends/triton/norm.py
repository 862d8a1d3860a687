"""LayerNorm by Triton kernels: forward reads and writes each value once, backward reads two and writes one."""

# mypy: disable-error-code="no-untyped-def"
# Triton compiles the kernels; they are Python in appearance alone.

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import custom_op

from fcmae.sparse.backends import pytorch
from fcmae.sparse.backends.triton.launch import Launch, can_run, many_or, next_power_of_2

GRAD_PROGRAMS = 1024
"""How many programs backward is cut into at most; each leaves a sum of its rows for weight and bias."""


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """See :func:`fcmae.sparse.backends.pytorch.layer_norm`; computed in float32.

    Under autocast the result keeps the type of ``x`` (PyTorch's is float32 on a GPU). Products read it next, after
    depthwise convolutions and before downsampling, and would round it anyway: float32 would be twice the bytes for
    the same numbers. The stem's result is also the first stage's residual, which so is bfloat16, as that of the others.
    """
    if not x.numel() or not can_run(x, weight, bias):
        return pytorch.layer_norm(x, weight, bias, eps)
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    return _forward_op(rows, weight, bias, eps)[0].view(x.shape)


@triton.jit(do_not_specialize=["num_rows"])
def forward_kernel(
    x_ptr, weight_ptr, bias_ptr, out_ptr, mean_ptr, rstd_ptr, num_rows, eps,
    CHANNELS: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """One program: ROWS rows. mean, rstd float32 [num_rows]; BLOCK is a power of two, at least CHANNELS."""
    row, channel = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK)
    is_row, is_channel = row < num_rows, channel < CHANNELS
    there = is_row[:, None] & is_channel[None, :]
    at = row.to(tl.int64)[:, None] * CHANNELS + channel[None, :]
    x = tl.load(x_ptr + at, mask=there, other=0).to(tl.float32)
    mean = tl.sum(x, axis=1) / CHANNELS
    centered = tl.where(is_channel[None, :], x - mean[:, None], 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(centered * centered, axis=1) / CHANNELS + eps)
    weight = tl.load(weight_ptr + channel, mask=is_channel, other=0).to(tl.float32)
    bias = tl.load(bias_ptr + channel, mask=is_channel, other=0).to(tl.float32)
    out = centered * rstd[:, None] * weight[None, :] + bias[None, :]
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=there)
    tl.store(mean_ptr + row, mean, mask=is_row)
    tl.store(rstd_ptr + row, rstd, mask=is_row)


@triton.jit(do_not_specialize=["num_rows", "steps"])
def backward_kernel(
    dy_ptr, x_ptr, weight_ptr, mean_ptr, rstd_ptr, dx_ptr, sums_ptr, num_rows, steps,
    CHANNELS: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """One program: ``steps`` times ROWS rows. sums float32 [programs, 2, CHANNELS]: Σ dy · normed x, Σ dy."""
    channel = tl.arange(0, BLOCK)
    is_channel = channel < CHANNELS
    weight = tl.load(weight_ptr + channel, mask=is_channel, other=0).to(tl.float32)[None, :]
    dweight, dbias = tl.zeros((ROWS, BLOCK), tl.float32), tl.zeros((ROWS, BLOCK), tl.float32)
    for step in range(steps):
        row = (tl.program_id(0) * steps + step) * ROWS + tl.arange(0, ROWS)
        is_row = row < num_rows
        there = is_row[:, None] & is_channel[None, :]
        at = row.to(tl.int64)[:, None] * CHANNELS + channel[None, :]
        mean, rstd = tl.load(mean_ptr + row, mask=is_row, other=0), tl.load(rstd_ptr + row, mask=is_row, other=0)
        dy = tl.load(dy_ptr + at, mask=there, other=0).to(tl.float32)
        x = tl.load(x_ptr + at, mask=there, other=0).to(tl.float32)
        normed = tl.where(there, (x - mean[:, None]) * rstd[:, None], 0.0)
        grad = dy * weight
        through = (normed * (tl.sum(grad * normed, axis=1) / CHANNELS)[:, None]) + (tl.sum(grad, axis=1) / CHANNELS)[
            :, None
        ]
        tl.store(dx_ptr + at, ((grad - through) * rstd[:, None]).to(dx_ptr.dtype.element_ty), mask=there)
        dweight += dy * normed
        dbias += dy
    at = tl.program_id(0).to(tl.int64) * (2 * CHANNELS) + channel
    tl.store(sums_ptr + at, tl.sum(dweight, axis=0), mask=is_channel)
    tl.store(sums_ptr + at + CHANNELS, tl.sum(dbias, axis=0), mask=is_channel)


def forward_launch(rows: int, channels: int) -> Launch:
    """Sixteen values a thread."""
    constants, num_warps = _tile(channels, values=16)
    return Launch(forward_kernel, (triton.cdiv(rows, constants["ROWS"]),), constants, num_warps)


def backward_launch(rows: int, channels: int) -> tuple[Launch, int]:
    """Eight values a thread, which holds twice as many sums; and steps of a program."""
    constants, num_warps = _tile(channels, values=8)
    blocks = triton.cdiv(rows, constants["ROWS"])
    steps = triton.cdiv(blocks, GRAD_PROGRAMS)
    return Launch(backward_kernel, (triton.cdiv(blocks, steps),), constants, num_warps), steps


def _tile(channels: int, values: int) -> tuple[dict[str, Any], int]:
    """Four warps, as many rows as make ``values`` for a thread; more warps for a row that is wider than that."""
    block = max(next_power_of_2(channels), 16)
    rows = max(4 * 32 * values // block, 1)
    num_warps = min(max(rows * block // (32 * values), 1), 16)
    return {"CHANNELS": channels, "BLOCK": block, "ROWS": many_or(rows, max(2**16 // block, 1))}, num_warps


@custom_op("fcmae::layer_norm", mutates_args=())
def _forward_op(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """x [rows, C] → the same normed, and float32 mean and 1 / √(variance + eps) of each row."""
    out, mean = torch.empty_like(x), x.new_empty(len(x), dtype=torch.float32)
    rstd = torch.empty_like(mean)
    forward_launch(*x.shape)(x, weight, bias, out, mean, rstd, len(x), eps)
    return out, mean, rstd


@custom_op("fcmae::layer_norm_grad", mutates_args=())
def _backward_op(dy: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    """dx, and float32 [2, C], the gradients to weight and bias."""
    launch, steps = backward_launch(*x.shape)
    dx, sums = torch.empty_like(x), x.new_empty(launch.grid[0], 2, x.shape[1], dtype=torch.float32)
    launch(dy, x, weight, mean, rstd, dx, sums, len(x), steps)
    return dx, sums.sum(0)


@_forward_op.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    mean = x.new_empty(len(x), dtype=torch.float32)
    return torch.empty_like(x), mean, torch.empty_like(mean)


@_backward_op.register_fake
def _(dy: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(2, x.shape[1], dtype=torch.float32)


def _save(ctx: Any, inputs: tuple, output: tuple) -> None:
    x, weight, bias, _ = inputs
    ctx.save_for_backward(x, weight, output[1], output[2])
    ctx.bias_dtype = bias.dtype
    ctx.mark_non_differentiable(output[1], output[2])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if dy is None:
        return None, None, None, None
    x, weight, mean, rstd = ctx.saved_tensors
    dx, (dweight, dbias) = _backward_op(dy.contiguous(), x, weight, mean, rstd)
    return dx, dweight.to(weight.dtype), dbias.to(ctx.bias_dtype), None


_forward_op.register_autograd(_backward, setup_context=_save)

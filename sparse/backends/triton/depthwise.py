"""The submanifold depthwise convolution by Triton kernels, as operators that torch.compile and autograd know.

On a CPU it runs under Triton's interpreter alone (``TRITON_INTERPRET=1`` before the process starts), which is how it is
tested where there is no GPU.
"""

import math
from typing import Any

import torch
import triton
from torch import Tensor
from torch.library import custom_op

from fcmae.sparse.backends import pytorch
from fcmae.sparse.backends.operations import check_depthwise
from fcmae.sparse.backends.triton.depthwise_kernels import near_kernel, slide_kernel, wgrad_kernel
from fcmae.sparse.backends.triton.launch import DTYPES, Launch, block_channels, many_or, missing_on, next_power_of_2
from fcmae.sparse.backends.triton.neighbors import neighbors_of
from fcmae.sparse.sites import ActiveSites

SMALL_SIDE = 2  # sites along a patch up to which the window is mostly masked: visit neighbors, do not slide
WGRAD_PROGRAMS = 2048
"""About how many warps wgrad is cut into: enough for every multiprocessor, few enough to sum."""
MAX_ROWS = 2**31 - 1


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None, sites: ActiveSites, side: int) -> Tensor:
    """See :func:`fcmae.sparse.backends.pytorch.depthwise_conv`; float32, bfloat16 or float16, sums in float32.

    Other types are PyTorch's.
    Under autocast the features are cast, weight and bias are not: the kernels compute in float32.

    Raises:
        ValueError: arguments that do not fit, tensors that Triton cannot reach, or more rows than int32 counts.
    """
    check_depthwise(x, weight, bias, sites, side)
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    elif weight.dtype != x.dtype or (bias is not None and bias.dtype != x.dtype):
        raise ValueError(f"features, weight and bias must be of one type, got {x.dtype} and {weight.dtype}")
    if x.dtype not in DTYPES or weight.dtype not in DTYPES:
        return pytorch.depthwise_conv(x, weight, bias, sites, side)
    if missing := missing_on(x.device):
        raise ValueError(f"the triton backend needs {missing}; take backend 'torch'")
    if len(x) > MAX_ROWS:
        raise ValueError(f"the triton backend takes at most {MAX_ROWS} rows, got {len(x)}; take a smaller batch")
    if not x.numel():
        return x + 0 * weight.sum() + (0 if bias is None else 0 * bias.sum())
    taps = weight.flatten(1).t().float().contiguous()  # [k·k, C]: channels of a tap side by side, as features have them
    neighbors = neighbors_of(sites, side, weight.shape[-1])
    return _convolve_op(x.contiguous(), taps, None if bias is None else bias.float(), *neighbors, side, False)


def convolve_launch(patches: int, channels: int, side: int, size: int, has_bias: bool, flip: bool) -> Launch:
    """How forward and dgrad are cut: two warps a program, eight values a thread."""
    block = block_channels(channels)
    kernel, rows = (near_kernel, 1) if side <= SMALL_SIDE else (slide_kernel, side)
    per_program = many_or(max(512 // (block * rows), 1), 16)
    constants = {
        "HAS_BIAS": has_bias, "FLIP": flip, "CHANNELS": channels, "S": side, "SIZE": size, "P": per_program,
        "BLOCK_CHANNELS": block,
    }  # fmt: skip
    values = 8 if side <= 8 else 64 // side  # a thread's; it holds as many for each column of a patch
    grid = (triton.cdiv(patches, per_program), triton.cdiv(channels, block))
    return Launch(kernel, grid, constants, max(per_program * rows * block // (32 * max(values, 2)), 1))


def wgrad_launch(patches: int, channels: int, side: int, size: int) -> tuple[Launch, int]:
    """How wgrad is cut, and how many times P patches a program takes."""
    block, rows = block_channels(channels), next_power_of_2(size + 1)
    num_warps = max(rows * block // (32 * (8 if size <= 7 else 4)), 1)
    blocks = triton.cdiv(channels, block)
    groups, abreast = triton.cdiv(patches, many_or(1, 16)), many_or(1, 16)
    per_program = triton.cdiv(groups * blocks * num_warps, WGRAD_PROGRAMS)
    constants = {
        "CHANNELS": channels, "S": side, "SIZE": size, "P": abreast, "ROWS": rows, "BLOCK_CHANNELS": block,
    }  # fmt: skip
    return Launch(wgrad_kernel, (triton.cdiv(groups, per_program), blocks), constants, num_warps), per_program


@custom_op("fcmae::submanifold_depthwise_conv", mutates_args=())
def _convolve_op(
    x: Tensor, taps: Tensor, bias: Tensor | None, table: Tensor, near: Tensor, count: Tensor, side: int, flip: bool
) -> Tensor:
    """x [N·s·s, C], taps float32 [k·k, C], bias float32 [C], neighbors; ``flip`` rotates the kernel by 180°."""
    out, patches = torch.empty_like(x), len(table)
    launch = convolve_launch(patches, x.shape[1], side, math.isqrt(len(taps)), bias is not None, flip)
    index = (near, count) if launch.kernel is near_kernel else (table,)
    launch(x, taps, taps if bias is None else bias, out, *index, patches)
    return out


@custom_op("fcmae::submanifold_depthwise_wgrad", mutates_args=())
def _wgrad_op(x: Tensor, dy: Tensor, table: Tensor, side: int, size: int) -> Tensor:
    """float32 [k·k + 1, C], k = ``size``: the gradient to every tap, and to the bias."""
    patches, channels = len(table), x.shape[1]
    launch, per_program = wgrad_launch(patches, channels, side, size)
    partial = torch.empty(launch.grid[0], size * size + 1, channels, device=x.device, dtype=torch.float32)
    launch(x, dy, partial, table, patches, per_program)
    return partial.sum(0)


@_convolve_op.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


@_wgrad_op.register_fake
def _(x: Tensor, dy: Tensor, table: Tensor, side: int, size: int) -> Tensor:
    return x.new_empty(size * size + 1, x.shape[1], dtype=torch.float32)


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, taps, _, table, near, count, ctx.side, ctx.flip = inputs
    ctx.save_for_backward(x, taps, table, near, count)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, taps, table, near, count = ctx.saved_tensors
    needs_x, needs_taps, needs_bias, *_ = ctx.needs_input_grad
    dy = dy.contiguous()
    # the neighborhood is symmetric, so dgrad is the same convolution with the kernel rotated by 180°
    dx = _convolve_op(dy, taps, None, table, near, count, ctx.side, not ctx.flip) if needs_x else None
    if not (needs_taps or needs_bias):
        return dx, *(None,) * 7
    sums = _wgrad_op(x, dy, table, ctx.side, math.isqrt(len(taps)))
    return dx, sums[:-1], sums[-1] if needs_bias else None, *(None,) * 5


_convolve_op.register_autograd(_backward, setup_context=_save)

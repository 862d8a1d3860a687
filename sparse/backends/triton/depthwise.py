"""The submanifold depthwise convolution by Triton kernels, as operators that torch.compile and autograd know.

On a CPU it runs under Triton's interpreter alone (``TRITON_INTERPRET=1`` before the process starts), which is how it is
tested where there is no GPU.
"""

import math
import os
from typing import Any

import torch
import triton
from torch import Tensor
from torch.library import custom_op

from fcmae.sparse.backends.operations import check_depthwise
from fcmae.sparse.backends.pytorch import autocast_args
from fcmae.sparse.backends.triton.kernels import convolve_kernel, wgrad_kernel
from fcmae.sparse.sites import ActiveSites

BLOCK_ROWS, MAX_BLOCK_CHANNELS = 32, 64
WGRAD_PROGRAMS = 4096
"""About how many programs wgrad is cut into: enough for every multiprocessor, few enough to sum."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None, sites: ActiveSites, side: int) -> Tensor:
    """See :func:`fcmae.sparse.backends.pytorch.depthwise_conv`; float32, bfloat16 or float16, sums in float32.

    Raises:
        ValueError: arguments that do not fit, or tensors that Triton cannot reach.
    """
    check_depthwise(x, weight, bias, sites, side)
    x, weight, bias = autocast_args(x, weight, bias)
    if x.dtype not in DTYPES or weight.dtype != x.dtype or (bias is not None and bias.dtype != x.dtype):
        raise ValueError(
            f"the triton backend takes features, weight and bias of one type, float32, bfloat16 or float16, got "
            f"{x.dtype} and {weight.dtype}; take backend 'torch' for float64"
        )
    if missing := missing_on(x.device):
        raise ValueError(f"the triton backend needs {missing}; take backend 'torch'")
    patches = sites.keep("triton patches", lambda: sites.patches.flatten().int())
    return _convolve_op(x.contiguous(), _taps_first(weight), bias, patches, sites.patch_slot(), side, False)


def missing_on(device: torch.device) -> str | None:
    """On a CPU the kernels run in Triton's interpreter alone."""
    interpreting = os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")
    return "a GPU" if device.type == "cpu" and not interpreting else None


def _taps_first(weight: Tensor) -> Tensor:
    """[C, 1, k, k] → contiguous [k·k, C]: the channels of a tap side by side, as features have them."""
    return weight.flatten(1).t().contiguous()


def _block_channels(channels: int) -> int:
    return min(MAX_BLOCK_CHANNELS, max(16, triton.next_power_of_2(channels)))


@custom_op("fcmae::submanifold_depthwise_conv", mutates_args=())
def _convolve_op(
    x: Tensor, taps: Tensor, bias: Tensor | None, patches: Tensor, slot: Tensor, side: int, flip: bool
) -> Tensor:
    """x [rows, C], taps [k·k, C], patches int32 [N], slot int32 [B, h, w]; ``flip`` rotates the kernel by 180°."""
    out = torch.empty_like(x)
    rows, channels = x.shape
    block_channels = _block_channels(channels)
    grid = (triton.cdiv(rows, BLOCK_ROWS), triton.cdiv(channels, block_channels))
    with torch.cuda.device_of(x):  # Triton launches on the current device
        convolve_kernel[grid](
            x, taps, taps if bias is None else bias, out, patches, slot, rows, channels,
            HAS_BIAS=bias is not None, FLIP=flip, HEIGHT=slot.shape[1], WIDTH=slot.shape[2],
            K=len(patches) // len(slot), BITS=side.bit_length() - 1, SIZE=math.isqrt(len(taps)),
            BLOCK_ROWS=BLOCK_ROWS, BLOCK_CHANNELS=block_channels,
        )  # fmt: skip
    return out


@custom_op("fcmae::submanifold_depthwise_wgrad", mutates_args=())
def _wgrad_op(x: Tensor, dy: Tensor, patches: Tensor, slot: Tensor, side: int, size: int) -> Tensor:
    """float32 [k·k, C], k = ``size``."""
    rows, channels = x.shape
    block_channels = _block_channels(channels)
    channel_blocks, row_blocks = triton.cdiv(channels, block_channels), triton.cdiv(rows, BLOCK_ROWS)
    blocks_per_program = triton.cdiv(row_blocks * channel_blocks * size * size, WGRAD_PROGRAMS)
    chunks = triton.cdiv(row_blocks, blocks_per_program)
    partial = torch.empty(chunks, size * size, channels, device=x.device, dtype=torch.float32)
    with torch.cuda.device_of(x):
        wgrad_kernel[(chunks, channel_blocks, size * size)](
            x, dy, partial, patches, slot, rows, channels, blocks_per_program,
            HEIGHT=slot.shape[1], WIDTH=slot.shape[2], K=len(patches) // len(slot),
            BITS=side.bit_length() - 1, SIZE=size, BLOCK_ROWS=BLOCK_ROWS, BLOCK_CHANNELS=block_channels,
        )  # fmt: skip
    return partial.sum(0)


@_convolve_op.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


@_wgrad_op.register_fake
def _(x: Tensor, dy: Tensor, patches: Tensor, slot: Tensor, side: int, size: int) -> Tensor:
    return x.new_empty(size * size, x.shape[1], dtype=torch.float32)


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, taps, bias, patches, slot, ctx.side, ctx.flip = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(x, taps, patches, slot)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, taps, patches, slot = ctx.saved_tensors
    needs_x, needs_taps, needs_bias, *_ = ctx.needs_input_grad
    dy = dy.contiguous()
    # the neighborhood is symmetric, so dgrad is the same convolution with the kernel rotated by 180°
    dx = _convolve_op(dy, taps, None, patches, slot, ctx.side, not ctx.flip) if needs_x else None
    size = math.isqrt(len(taps))
    dtaps = _wgrad_op(x, dy, patches, slot, ctx.side, size).to(taps.dtype) if needs_taps else None
    dbias = dy.sum(0, dtype=torch.float32).to(ctx.bias_dtype) if needs_bias else None
    return dx, dtaps, dbias, None, None, None, None


_convolve_op.register_autograd(_backward, setup_context=_save)

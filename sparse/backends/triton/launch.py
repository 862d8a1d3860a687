"""What the Triton operations share: where they run, how a kernel is launched, how channels are cut into blocks."""

import os
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def interpreting() -> bool:
    """Whether Triton's interpreter runs the kernels, on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


def missing_on(device: torch.device) -> str | None:
    """On a CPU the kernels run in Triton's interpreter alone."""
    return "a GPU" if device.type == "cpu" and not interpreting() else None


def can_run(*tensors: Tensor | None) -> bool:
    """Whether the kernels take these tensors: their dtypes, and their device."""
    return all(t is None or (t.dtype in DTYPES and missing_on(t.device) is None) for t in tensors)


class Launch(NamedTuple):
    """A kernel, its grid, its constants and the warps of a program. benchmarks/kernel_cost.py reads them, too."""

    kernel: Any
    grid: tuple[int, ...]
    constants: dict[str, Any]
    num_warps: int

    def __call__(self, *args: Any) -> None:
        """Run it on the device of the first argument; Triton launches on the current device."""
        with torch.cuda.device_of(args[0]):
            self.kernel[self.grid](*args, **self.constants, num_warps=self.num_warps)


def block_channels(channels: int) -> int:
    """64, 32 or 16 channels: the block that leaves the fewest lanes idle, the larger of two that leave the same."""
    if interpreting():
        return next_power_of_2(channels)
    return min((64, 32, 16), key=lambda block: -(-channels // block) * block)


def many_or(number: int, most: int = 64) -> int:
    """How many units a program takes: ``number``; in the interpreter, slow by the program, at least ``most``."""
    return max(number, most) if interpreting() else number


def next_power_of_2(number: int) -> int:
    """At least 1."""
    return int(triton.next_power_of_2(max(number, 1)))

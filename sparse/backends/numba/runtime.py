"""How the kernels are compiled and launched."""

import threading
from typing import Any

import numba
import numpy as np
import torch
from numba import njit, types
from numba.extending import intrinsic
from torch import Tensor

if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
    raise ImportError("its compiler, which NUMBA_DISABLE_JIT switches off", name="NUMBA_DISABLE_JIT unset")
MOST_THREADS: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
numba.get_num_threads()  # launches the threads: ValueError for a threading layer that is not installed

# Sums may be reordered; NaN and ∞ keep their meaning. (Numba's cache does not notice a change here: delete it then.)
FAST_MATH = {"reassoc", "contract", "nsz"}
parallel_kernel: Any = njit(parallel=True, fastmath=FAST_MATH, error_model="numpy", cache=True)
device_function: Any = njit(fastmath=FAST_MATH, error_model="numpy", cache=True)  # called by kernels
inlined: Any = njit(inline="always")  # the same, inlined before type inference


def _mark_wide_vectors(_typing_context):  # type: ignore[no-untyped-def]
    def mark(context, builder, signature, args):  # type: ignore[no-untyped-def]
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')  # its own add() rejects this name
        builder.function.attributes.add("noinline")  # inside another function the attribute would be lost
        return context.get_dummy_value()

    return types.void(), mark


# Called inside a loop, it lets LLVM use the full AVX-512 width there; it generates no code, only a function attribute.
# By default LLVM takes half the width, because the full one lowered the clock of early AVX-512 processors. The matrix
# products around these kernels use it anyway.
wide_vectors: Any = intrinsic(_mark_wide_vectors)

_one_caller = threading.Lock()  # Numba's workqueue threading layer does not support concurrent callers


def launch(kernel: Any, *args: Tensor | np.ndarray | float) -> None:
    """Call a kernel on CPU tensors; those that it writes to must be contiguous."""
    arrays = [arg.detach().contiguous().numpy() if isinstance(arg, Tensor) else arg for arg in args]
    with _one_caller:
        before, wanted = numba.get_num_threads(), min(torch.get_num_threads(), MOST_THREADS)
        if before == wanted:
            kernel(*arrays)
            return
        numba.set_num_threads(wanted)
        try:
            kernel(*arrays)
        finally:
            numba.set_num_threads(before)

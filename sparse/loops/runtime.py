"""How the loops are compiled and run."""

import os
import threading
from typing import Any

import numba
import torch
from numba import njit, types
from numba.extending import intrinsic
from torch import Tensor

PROCESS = os.getpid()  # that may run the loops: Numba's threads do not survive a fork
INTERPRETED: bool = numba.config.DISABLE_JIT  # type: ignore[attr-defined]
MOST_THREADS: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]

# Sums may be reordered; NaN and ∞ mean what they mean. (Numba's cache knows nothing of a change here: delete it then.)
FAST_MATH = {"reassoc", "contract", "nsz"}
parallel_loop: Any = njit(parallel=True, fastmath=FAST_MATH, error_model="numpy", cache=True)
part_of_a_loop: Any = njit(fastmath=FAST_MATH, error_model="numpy", cache=True)  # a function that compiled ones call

written_into_a_loop: Any = njit(inline="always")  # the same, copied in line by line before anything is compiled


def _mark_wide_vectors(_typing_context):  # type: ignore[no-untyped-def]
    def mark(context, builder, signature, args):  # type: ignore[no-untyped-def]
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')  # its own add() knows too few names
        builder.function.attributes.add("noinline")  # inside another function the mark would be lost
        return context.get_dummy_value()

    return types.void(), mark


# To be called in a loop, which may then use AVX-512's vectors in full; no code comes of it, but a mark on the function.
# LLVM takes half of their width unless told otherwise, for the full one lowered the clock of the first processors that
# had it; the matrix products before and after these loops use it in any case. GELU and GRN take 0.6 to 0.75 of the
# time so. (What goes by windows is as fast without.)
wide_vectors: Any = intrinsic(_mark_wide_vectors)

# one of Numba's thread pools, the one it takes where there is no OpenMP, does not bear two callers at once
_one_caller = threading.Lock()


def launch_threads() -> None:
    """Raises ValueError if Numba is set to a threading layer that is not there."""
    numba.get_num_threads()


def run(loop: Any, *args: Tensor | float) -> None:
    """Call a compiled loop on tensors of a CPU; those it writes to must be contiguous."""
    arrays = [arg.detach().contiguous().numpy() if isinstance(arg, Tensor) else arg for arg in args]
    with _one_caller:
        before, wanted = numba.get_num_threads(), min(torch.get_num_threads(), MOST_THREADS)
        if before == wanted:
            loop(*arrays)
            return
        numba.set_num_threads(wanted)
        try:
            loop(*arrays)
        finally:
            numba.set_num_threads(before)

"""What PyTorch does on a CPU in several passes over memory, in one: loops that Numba compiles when they are first run.

Numba comes from PyPI with its own compiler; nothing is built at installation. Each loop is compiled for float32 and for
float64, a second or two, and kept on disk: beside its file, where ``NUMBA_CACHE_DIR`` says, or in the user's cache.

Sums are cut into parts by their length alone, so results do not depend on the number of threads, bit for bit.
Import :mod:`fcmae.sparse.compiled`, which knows whether Numba is there.
"""

from fcmae.sparse.loops.depthwise import convolve, convolve_grad
from fcmae.sparse.loops.layer_norm import layer_norm_grad
from fcmae.sparse.loops.mlp import gelu_and_scale, gelu_grn, gelu_grn_grad_
from fcmae.sparse.loops.patches import stem_columns, targets
from fcmae.sparse.loops.runtime import INTERPRETED, PROCESS, launch_threads
from fcmae.sparse.loops.windows import window_rows

__all__ = [
    "INTERPRETED",
    "PROCESS",
    "convolve",
    "convolve_grad",
    "gelu_and_scale",
    "gelu_grn",
    "gelu_grn_grad_",
    "launch_threads",
    "layer_norm_grad",
    "stem_columns",
    "targets",
    "window_rows",
]

"""The ``numba`` backend: CPU kernels that Numba compiles when they first run. Fewer passes over memory than PyTorch.

Numba comes from PyPI with its own compiler; nothing is built at installation. Each kernel is compiled for float32 and
for float64 in a second or two and cached on disk: beside its file, where ``NUMBA_CACHE_DIR`` says, or in the user's
cache. Sums are split by their length alone, so results are the same, bit for bit, for any number of threads.

Where the kernels cannot run (other dtypes, autocast, torch.compile, a forked process) each operation calls PyTorch's.
"""

import torch

from fcmae.sparse.backends.numba.depthwise import depthwise_conv
from fcmae.sparse.backends.numba.grn_mlp import mlp
from fcmae.sparse.backends.numba.patches import patch_pixels

__all__ = ["depthwise_conv", "missing_on", "mlp", "patch_pixels"]


def missing_on(device: torch.device) -> str | None:
    """These are CPU kernels."""
    return None if device.type == "cpu" else "a CPU"

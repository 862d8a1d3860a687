"""The ``triton`` backend: GPU kernels, block-sparse over the visible patches. Sums are in float32, and deterministic.

Where a kernel cannot run (float64, an MLP without GRN) PyTorch's operation does.
"""

from fcmae.sparse.backends.triton.depthwise import depthwise_conv
from fcmae.sparse.backends.triton.grn_mlp import mlp
from fcmae.sparse.backends.triton.norm import layer_norm
from fcmae.sparse.backends.triton.patches import patch_pixels, stem_rows
from fcmae.sparse.backends.triton.requirements import missing_on

__all__ = ["depthwise_conv", "layer_norm", "missing_on", "mlp", "patch_pixels", "stem_rows"]

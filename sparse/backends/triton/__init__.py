"""The ``triton`` backend: GPU kernels, block-sparse over the visible patches. Sums are in float32, and deterministic.

Where a kernel cannot run (float64, an MLP without GRN) LayerNorm and the MLP call PyTorch's.
"""

from fcmae.sparse.backends.triton.depthwise import depthwise_conv
from fcmae.sparse.backends.triton.grn_mlp import mlp
from fcmae.sparse.backends.triton.launch import missing_on
from fcmae.sparse.backends.triton.norm import layer_norm
from fcmae.sparse.backends.triton.patches import patch_pixels, stem_rows

__all__ = ["depthwise_conv", "layer_norm", "missing_on", "mlp", "patch_pixels", "stem_rows"]

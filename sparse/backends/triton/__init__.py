"""The ``triton`` backend: GPU kernels, block-sparse over the visible patches."""

from fcmae.sparse.backends.triton.depthwise import depthwise_conv
from fcmae.sparse.backends.triton.launch import missing_on

__all__ = ["depthwise_conv", "missing_on"]

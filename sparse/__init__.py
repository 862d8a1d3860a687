"""Sparse convolution over masked patch grids. Knows nothing of ConvNeXt.

Features live in one contiguous matrix ``[B·K·s·s, C]``: K visible patches per image, patch by patch, the s×s sites
inside a patch in Z-order. See :mod:`fcmae.sparse.sites`. The literal definitions are in :mod:`fcmae.sparse.reference`.
"""

from fcmae.sparse.backends import GRID, Backend, BackendError, resolve_backend
from fcmae.sparse.depthwise import depthwise_conv
from fcmae.sparse.layer_norm import layer_norm
from fcmae.sparse.mlp import grn_mlp
from fcmae.sparse.ops import densify, downsample, gather_image_patches, gather_sites
from fcmae.sparse.response_norm import grn
from fcmae.sparse.sites import ActiveSites

__all__ = [
    "GRID",
    "ActiveSites",
    "Backend",
    "BackendError",
    "densify",
    "depthwise_conv",
    "downsample",
    "gather_image_patches",
    "gather_sites",
    "grn",
    "grn_mlp",
    "layer_norm",
    "resolve_backend",
]

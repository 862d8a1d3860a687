"""Sparse convolution over masked patch grids. Knows nothing of ConvNeXt.

Features live in one contiguous matrix ``[B·K·s·s, C]``: K visible patches per image, patch by patch, the s×s sites
inside a patch in Z-order. See :mod:`fcmae.sparse.sites`. The literal definitions are in :mod:`fcmae.sparse.reference`.
"""

"""Backends: who computes the sparse operations. See :mod:`fcmae.sparse.backends.registry`."""

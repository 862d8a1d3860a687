"""Backends: implementations of the sparse operations. See :mod:`fcmae.sparse.backends.registry`."""

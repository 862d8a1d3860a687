"""Sparse convolution over masked patch grids. Knows nothing of ConvNeXt.

Features live in one contiguous matrix ``[B·K·s·s, C]``: K visible patches per image, patch by patch, the s×s sites
inside a patch in Z-order. See :mod:`fcmae.sparse.sites`. The literal definitions are in :mod:`fcmae.sparse.reference`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fcmae.sparse.backends.operations import Backend as Backend
    from fcmae.sparse.backends.operations import MlpWeights as MlpWeights
    from fcmae.sparse.backends.registry import BackendError as BackendError
    from fcmae.sparse.backends.registry import resolve_backend as resolve_backend
    from fcmae.sparse.grid import densify as densify
    from fcmae.sparse.grid import gather_sites as gather_sites
    from fcmae.sparse.sites import ActiveSites as ActiveSites

_HOME_OF = {
    "ActiveSites": "fcmae.sparse.sites",
    "Backend": "fcmae.sparse.backends.operations",
    "BackendError": "fcmae.sparse.backends.registry",
    "MlpWeights": "fcmae.sparse.backends.operations",
    "densify": "fcmae.sparse.grid",
    "gather_sites": "fcmae.sparse.grid",
    "resolve_backend": "fcmae.sparse.backends.registry",
}
__all__ = ["ActiveSites", "Backend", "BackendError", "MlpWeights", "densify", "gather_sites", "resolve_backend"]


def __getattr__(name: str) -> Any:  # on first use (PEP 562): the settings are read without torch
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Images: sources, decoding, crops, draws, the sample stream, labeled sets, normalization."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fcmae.data.folder import image_files
    from fcmae.data.samples import PretrainDataset

__all__ = ["PretrainDataset", "image_files"]

_MODULES = {"PretrainDataset": "fcmae.data.samples", "image_files": "fcmae.data.folder"}


def __getattr__(name: str) -> Any:
    """Loaded on first use: the settings import a module of this package."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)

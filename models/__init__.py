"""The networks: the sparse ConvNeXt encoder, the decoder, and FCMAE, which combines them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fcmae.models.config import ModelConfig as ModelConfig
    from fcmae.models.encoder import SparseConvNeXt as SparseConvNeXt
    from fcmae.models.fcmae import FCMAE as FCMAE
    from fcmae.models.fcmae import FCMAEOutput as FCMAEOutput
    from fcmae.models.fcmae import create_model as create_model
    from fcmae.models.sizes import list_models as list_models

_HOME_OF = {
    "FCMAE": "fcmae.models.fcmae",
    "FCMAEOutput": "fcmae.models.fcmae",
    "ModelConfig": "fcmae.models.config",
    "SparseConvNeXt": "fcmae.models.encoder",
    "create_model": "fcmae.models.fcmae",
    "list_models": "fcmae.models.sizes",
}
__all__ = ["FCMAE", "FCMAEOutput", "ModelConfig", "SparseConvNeXt", "create_model", "list_models"]


def __getattr__(name: str) -> Any:  # on first use (PEP 562): the settings are read without torch
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

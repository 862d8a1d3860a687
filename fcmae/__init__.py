"""FCMAE: self-supervised pretraining of ConvNeXt V2 on the visible patches of masked images.

Public names are imported on first use (PEP 562), so ``import fcmae`` is light, needs torch, timm and einops alone, and
no command's module is loaded before ``python -m fcmae.<command>`` runs it.
"""

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

_ROOT = Path(__file__).resolve().parent.parent


class _Checkout:
    """In a checkout sparse/, models/ and configs/ lie beside this folder; they import as fcmae.* without an install."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Of these three, and nothing else of the checkout."""
        return PathFinder.find_spec(name, [str(_ROOT)]) if name in _BESIDE else None


_BESIDE = {"fcmae.sparse", "fcmae.models", "fcmae.configs"}
if (_ROOT / "pyproject.toml").is_file():
    sys.meta_path.insert(0, _Checkout)  # before an editable install of another checkout

if TYPE_CHECKING:
    from fcmae.analysis.collapse import analyze_collapse as analyze_collapse
    from fcmae.analysis.distance import cosine_distance as cosine_distance
    from fcmae.models import FCMAE as FCMAE
    from fcmae.models import FCMAEOutput as FCMAEOutput
    from fcmae.models import ModelConfig as ModelConfig
    from fcmae.models import create_model as create_model
    from fcmae.models import list_models as list_models
    from fcmae.weights.convert import convert_to_dense as convert_to_dense
    from fcmae.weights.dense import create_dense as create_dense
    from fcmae.weights.load import load_encoder as load_encoder
    from fcmae.weights.load import load_model as load_model

__version__ = "0.1.0"

_HOME_OF = {
    "FCMAE": "fcmae.models",
    "FCMAEOutput": "fcmae.models",
    "ModelConfig": "fcmae.models",
    "analyze_collapse": "fcmae.analysis.collapse",
    "convert_to_dense": "fcmae.weights.convert",
    "cosine_distance": "fcmae.analysis.distance",
    "create_dense": "fcmae.weights.dense",
    "create_model": "fcmae.models",
    "list_models": "fcmae.models",
    "load_encoder": "fcmae.weights.load",
    "load_model": "fcmae.weights.load",
}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'fcmae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""FCMAE: self-supervised pretraining of ConvNeXt V2 on the visible patches of masked images.

Public names are imported on first use (PEP 562), so ``import fcmae`` is light, needs torch, timm and einops alone, and
no command's module is loaded before ``python -m fcmae.<command>`` runs it.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

# In a checkout sparse/, models/ and configs/ lie beside this folder, not in it; let them import as fcmae.* there too.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout))

if TYPE_CHECKING:
    from fcmae.analysis.collapse_analysis import analyze_collapse as analyze_collapse
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
    "analyze_collapse": "fcmae.analysis.collapse_analysis",
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

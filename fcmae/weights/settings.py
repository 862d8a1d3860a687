"""Settings stored with weights: a run's config.yaml, a timm or transformers folder, a .safetensors file's metadata."""

import json
import logging
from pathlib import Path
from typing import Any, TypeVar

import yaml
from safetensors import safe_open

from fcmae.config import DataConfig
from fcmae.data.normalizer import Normalizer, Pixels
from fcmae.data.pixel_reading import PixelReading
from fcmae.errors import UserError
from fcmae.runs.find import FOLDER, LAST, MODEL, resolve_weights
from fcmae.runs.layout import CONFIG, HEADER
from fcmae.runs.utf8_path import utf8_path
from fcmae.weights import formats
from fcmae.weights.formats.base import CONFIG_JSON, EXPORTED_KEY, read_json

logger = logging.getLogger(__name__)

T = TypeVar("T")

PIXEL_FIELDS: dict[str, Any] = {
    "value_range": list, "bands": list, "nodata": int | float, "stack": str, "max_pixels": int,
    "slices": str, "level": int,
}  # fmt: skip
PIXELS_KEY = "fcmae_pixels"
"""In the metadata of a .safetensors file, for formats and files that have no other place for it."""


def pixels(ckpt: object, in_chans: int) -> Pixels:
    """How the images of a network were read and normalized; plain 8-bit images by ImageNet's if nothing says.

    Known for runs of this toolkit, for folders of timm and transformers, and for files of ``fcmae convert``.
    """
    return Pixels(normalization(ckpt, in_chans), pixel_reading(ckpt, in_chans))


def stated_pixels(ckpt: str | Path) -> dict[str, Any]:
    """What is stated next to weights, by the names of ``--data``: how files are read, mean and std.

    Only what is stated; so nothing for plain 8-bit images, and nothing for a path that does not exist.
    """
    if not Path(ckpt).exists():
        return {}
    found = {name: value for name, value in _stated_pixels(ckpt).items() if name in PIXEL_FIELDS}
    found |= dict(zip(("mean", "std"), _mean_std(ckpt), strict=True))
    return _with_tuples({name: value for name, value in found.items() if value is not None})


def stated_network(ckpt: str | Path) -> dict[str, int]:
    """``stem_stride`` and ``decoder_dim`` of the run that weights are of, as far as it states them."""
    file = _file_of(ckpt)
    found = {name: run_setting(file, "model", name, int) for name in ("stem_stride", "decoder_dim")}
    return {name: value for name, value in found.items() if value is not None}


def metadata_of(ckpt: object, pixels: Pixels) -> dict[str, str]:
    """Metadata of a .safetensors file that says how pixels are read; empty if the source does not say."""
    if not says_normalization(ckpt) and not (isinstance(ckpt, str | Path) and _stated_pixels(ckpt)):
        return {}
    return {PIXELS_KEY: json.dumps(pixels.reading.exported() | {"mean": pixels.mean, "std": pixels.std})}


def says_normalization(ckpt: object) -> bool:
    """Whether a checkpoint states a mean or a standard deviation."""
    return isinstance(ckpt, str | Path) and any(_mean_std(ckpt))


def _header(file: Path) -> dict[str, Any]:
    """What :func:`metadata_of` wrote into a file; empty for any other."""
    try:
        with utf8_path(file) as path, safe_open(path, framework="np") as opened:
            found = json.loads((opened.metadata() or {}).get(PIXELS_KEY, "null"))
    except Exception:  # safetensors' own error class, OSError, ValueError: a file of another kind, or damaged
        return {}
    return found if isinstance(found, dict) else {}


def pixel_reading(ckpt: object, in_chans: int) -> PixelReading:
    """How the files of a network were read: its value range, bands, nodata and stack."""
    fields = _stated_pixels(ckpt) if isinstance(ckpt, str | Path) else {}
    try:
        return PixelReading(in_chans, **_with_tuples(fields))
    except (TypeError, ValueError) as error:
        logger.warning("%s: how its images were read does not fit: %s; reading them by their own type", ckpt, error)
        return PixelReading(in_chans)


def _with_tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def _stated_pixels(ckpt: str | Path) -> dict[str, Any]:
    """``data`` of a run's config.yaml, or what an exported folder or file says of the same name; only what is set."""
    file = _file_of(ckpt)
    found = _header(file)
    if not found:
        settings = {name: run_setting(file, "data", name, kind) for name, kind in PIXEL_FIELDS.items()}
        found = {name: value for name, value in settings.items() if value is not None}
    if not found:
        exported = read_json(file.parent / CONFIG_JSON).get(EXPORTED_KEY)
        found = exported if isinstance(exported, dict) else {}
    if found:
        return {name: found[name] for name, kind in PIXEL_FIELDS.items() if isinstance(found.get(name), kind)}
    ranges = (format.value_range(file.parent) for format in formats.KNOWN)
    stated = next((one for one in ranges if one is not None), None)
    return {} if stated is None else {"value_range": stated}


def normalization(ckpt: object, in_chans: int) -> Normalizer:
    """How the images were normalized; ImageNet's mean and standard deviation if nothing says.

    Known as for :func:`pixels`.
    """
    mean, std = _mean_std(ckpt) if isinstance(ckpt, str | Path) else (None, None)
    try:
        return DataConfig(mean=mean and tuple(mean), std=std and tuple(std)).normalizer(in_chans)
    except (TypeError, ValueError):
        logger.warning("%s: its mean %s and std %s do not fit %d channels; using ImageNet's", ckpt, mean, std, in_chans)
        return DataConfig().normalizer(in_chans)


def _file_of(ckpt: str | Path) -> Path:
    """The file of the weights; one beside the configuration, of which there may be none, for another toolkit's."""
    if Path(ckpt).is_file() and Path(ckpt).name != LAST:
        return Path(ckpt)
    try:
        return model_file(ckpt)
    except UserError:
        return Path(ckpt) / MODEL


def _mean_std(ckpt: str | Path) -> tuple[Any, Any]:
    file = _file_of(ckpt)
    if header := _header(file):
        return header.get("mean"), header.get("std")
    found = [run_setting(file, "data", name, list) for name in ("mean", "std")]
    if any(found):
        return found[0], found[1]
    exported = read_json(file.parent / CONFIG_JSON).get(EXPORTED_KEY)
    if isinstance(exported, dict) and isinstance(exported.get("mean"), list):
        return exported["mean"], exported.get("std")
    stated = (format.mean_std(file.parent) for format in formats.KNOWN)
    return next((mean_std for mean_std in stated if mean_std is not None), (None, None))


def model_file(ckpt: str | Path) -> Path:
    """The model.safetensors of a run folder or a checkpoint folder; a file stays; UserError if there is none."""
    path = Path(ckpt)
    return path if path.suffix == ".safetensors" else resolve_weights(path) / MODEL


def run_setting(file: Path, group: str, name: str, kind: type[T]) -> T | None:
    """A setting from the config.yaml of the run that a checkpoint's file lies in; None if it lies in none, or unset.

    ``group`` may be empty, for the settings outside of groups.
    """
    folder = file.resolve().parent.parent
    config = folder.parent / CONFIG
    if folder.name != FOLDER or not config.is_file():
        return None
    text = config.read_text(encoding="utf-8", errors="replace")
    try:
        plain = yaml.safe_load(text) if text.startswith(HEADER) else None
    except yaml.YAMLError:
        return None
    settings = plain.get(group) if isinstance(plain, dict) and group else plain
    value = settings.get(name) if isinstance(settings, dict) else None
    return value if isinstance(value, kind) else None

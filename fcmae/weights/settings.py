"""Settings stored next to weights: a run's config.yaml, or the configuration of a timm or transformers folder."""

import logging
from pathlib import Path
from typing import Any, TypeVar

import yaml

from fcmae.config import DataConfig
from fcmae.data.normalizer import Normalizer, Pixels
from fcmae.data.pixel_reading import PixelReading
from fcmae.errors import UserError
from fcmae.runs.checkpoint import FOLDER, MODEL, resolve_checkpoint
from fcmae.runs.layout import CONFIG, HEADER
from fcmae.weights import formats
from fcmae.weights.formats.base import CONFIG_JSON, EXPORTED_KEY, read_json

logger = logging.getLogger(__name__)

T = TypeVar("T")

PIXEL_FIELDS = ("value_range", "bands", "nodata", "stack", "max_pixels")


def pixels(ckpt: object, in_chans: int) -> Pixels:
    """How the images of a network were read and normalized; plain 8-bit images by ImageNet's if nothing says.

    Known for runs of this toolkit, and for folders of timm and transformers.
    """
    return Pixels(normalization(ckpt, in_chans), pixel_reading(ckpt, in_chans))


def pixel_reading(ckpt: object, in_chans: int) -> PixelReading:
    """How the files of a network were read: its value range, bands, nodata and stack."""
    stated = _stated_pixels(ckpt) if isinstance(ckpt, str | Path) else {}
    fields: dict[str, Any] = {name: stated[name] for name in PIXEL_FIELDS if stated.get(name) is not None}
    try:
        return PixelReading(in_chans, **_with_tuples(fields))
    except (TypeError, ValueError) as error:
        logger.warning("%s: how its images were read does not fit: %s; reading them by their own type", ckpt, error)
        return PixelReading(in_chans)


def _with_tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def _stated_pixels(ckpt: str | Path) -> dict[str, Any]:
    """``data`` of a run's config.yaml, or what an exported folder says of the same name."""
    try:
        file = model_file(ckpt)
    except UserError:  # of another toolkit
        file = Path(ckpt) / MODEL
    kinds: dict[str, Any] = {"value_range": list, "bands": list, "nodata": int | float, "stack": str, "max_pixels": int}
    found = {name: run_setting(file, "data", name, kind) for name, kind in kinds.items()}
    if any(value is not None for value in found.values()):
        return found
    exported = read_json(file.parent / CONFIG_JSON).get(EXPORTED_KEY)
    if isinstance(exported, dict):
        return exported
    ranges = (format.value_range(file.parent) for format in formats.KNOWN)
    return {"value_range": next((one for one in ranges if one is not None), None)}


def normalization(ckpt: object, in_chans: int) -> Normalizer:
    """How the images were normalized; ImageNet's mean and standard deviation if nothing says.

    Known for runs of this toolkit, and for folders of timm and transformers.
    """
    mean, std = _mean_std(ckpt) if isinstance(ckpt, str | Path) else (None, None)
    try:
        return DataConfig(mean=mean and tuple(mean), std=std and tuple(std)).normalizer(in_chans)
    except (TypeError, ValueError):
        logger.warning("%s: its mean %s and std %s do not fit %d channels; using ImageNet's", ckpt, mean, std, in_chans)
        return DataConfig().normalizer(in_chans)


def _mean_std(ckpt: str | Path) -> tuple[Any, Any]:
    try:
        file = model_file(ckpt)
    except UserError:  # of another toolkit
        file = Path(ckpt) / MODEL
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
    return path if path.suffix == ".safetensors" else resolve_checkpoint(path) / MODEL


def run_setting(file: Path, group: str, name: str, kind: type[T]) -> T | None:
    """A setting from the config.yaml of the run that a checkpoint's file lies in; None if it lies in none, or unset."""
    folder = file.resolve().parent.parent
    config = folder.parent / CONFIG
    if folder.name != FOLDER or not config.is_file():
        return None
    text = config.read_text(encoding="utf-8", errors="replace")
    try:
        plain = yaml.safe_load(text) if text.startswith(HEADER) else None
    except yaml.YAMLError:
        return None
    settings = plain.get(group) if isinstance(plain, dict) else None
    value = settings.get(name) if isinstance(settings, dict) else None
    return value if isinstance(value, kind) else None

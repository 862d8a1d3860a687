"""Chooses the settings that were left to the recipe for small sets, once the images are listed."""

import logging
from typing import Any

from fcmae.config import PretrainConfig, small_sets
from fcmae.config.left_open import OpenConfig
from fcmae.training.batch import expected_batch
from fcmae.training.resume import KEPT_IF_UNSET
from fcmae.weights.settings import stated_network, stated_pixels

logger = logging.getLogger(__name__)


def chosen(config: PretrainConfig, images: int, num_processes: int, before: dict[str, Any] | None) -> PretrainConfig:
    """The configuration with a value for every setting that was left open: of the recipe, or of the run to resume.

    Args:
        config: as given; only an :class:`OpenConfig` leaves settings open.
        images: to train on.
        num_processes: that share an optimizer step.
        before: the settings of the run to resume, by dotted name; it keeps its own, however many images there are now.
            None: a new run.

    Raises:
        UserError: an image size that the recipe's patches do not divide.
    """
    if not isinstance(config, OpenConfig):
        return config
    if before is not None:
        kept = (name for name in before if name not in KEPT_IF_UNSET)  # training/resume.py keeps those
        return config.settled({name: _as_tuple(before[name]) for name in kept})
    if images >= small_sets.LIMIT and not config.for_any_set:
        return config.settled({})
    is_open, train = config.left_open, config.train
    values = small_sets.values(
        config.model.name, config.model.image_hw, images * config.data.repeat * config.data.crops_per_image,
        expected_batch(train, num_processes), None if "train.epochs" in is_open else train.epochs,
        0.0 if "train.warmup_epochs" in is_open else train.warmup_epochs or 0.0,
    )  # fmt: skip
    if config.model.init_from is not None:
        values = {name: value for name, value in values.items() if name not in small_sets.OF_WEIGHTS}
        values |= _of_weights(config.model.init_from, config.model.in_chans)
    found = {name: value for name, value in values.items() if name in is_open}
    if flags := " ".join(f"--{name} {_text(value)}" for name, value in found.items() if value is not None):
        logger.info("%s images to train on: --config %s (%s)", f"{images:,}", small_sets.AUTO, flags)
    return config.settled(found)


def _of_weights(source: str, in_chans: int) -> dict[str, Any]:
    """What weights state of the settings that must be theirs, by dotted name."""
    of_data = {name: value for name, value in stated_pixels(source).items() if name in ("mean", "std")}
    if any(len(value) != in_chans for value in of_data.values()):
        of_data = {}
    found = {f"model.{name}": value for name, value in stated_network(source).items()}
    return found | {f"data.{name}": value for name, value in of_data.items()}


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _text(value: Any) -> str:
    return ",".join(f"{one:g}" for one in value) if isinstance(value, tuple) else str(value)

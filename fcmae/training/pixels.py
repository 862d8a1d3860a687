"""Settles how pixels become numbers: what the settings leave open is measured, or taken from the run to resume."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

from fcmae.config import TrainingImagesConfig
from fcmae.config.run import RunConfig
from fcmae.data import measure
from fcmae.data.stored import ImageRef

logger = logging.getLogger(__name__)

FAINT, GLARING = 0.2, 5.0
"""A set whose normalized contrast lies beyond these trains badly. Photographs have about 1."""
C = TypeVar("C", bound=RunConfig)
RECORDED = ("value_range", "mean", "std")


def recorded_pixels(config: C, before: dict[str, Any]) -> C:
    """What is unset or ``auto``, as ``before``, the settings of the run to resume, has it."""
    data, changes = config.data, dict[str, Any]()
    for name in RECORDED:
        recorded = before.get(f"data.{name}")
        if getattr(data, name) in (None, "auto") and isinstance(recorded, list):
            changes[name] = tuple(recorded)
    return _with_data(config, replace(data, **changes))


def measured_pixels(config: C, paths: Sequence[ImageRef]) -> C:
    """The settings with ``value_range``, ``mean`` and ``std`` filled in where they are to be measured.

    8-bit images keep their range and, unless it says ``auto``, ImageNet's mean and standard deviation. A warning says
    if the images will have little contrast then.
    """
    data, in_chans = config.data, config.model.in_chans
    found = measure.sample(paths, data.reading(in_chans), config.seed)
    if found is None:
        return config
    is_deep, mixed = found.shallow is None, found.shallow is not None and found.deep is not None
    units = found.units
    if data.value_range is None and is_deep:
        data = replace(data, value_range=measure.shortest_range(measure.value_range(found.values)))
        logger.info("measured --data.value_range %s", _text(data.value_range or ()))
    if data.value_range is not None:
        units = measure.in_range(found.values, data.reading(in_chans).pairs() or ())
    elif mixed:
        logger.warning(
            "%s has 8 bits and %s more: each is mapped to 0 … 1 by its own type; --data.value_range sets one range for "
            "all",
            found.shallow, found.deep,
        )  # fmt: skip
    mean, std = measure.mean_std(units)
    wanted = ("auto", None) if data.value_range is not None else ("auto",)
    data = replace(data, mean=mean if data.mean in wanted else data.mean, std=std if data.std in wanted else data.std)
    if data.std != std:
        _check_contrast(units, data, in_chans)
    return _with_data(config, data)


def _with_data(config: C, data: TrainingImagesConfig) -> C:
    whole: Any = config
    return cast(C, replace(whole, data=data))


def _check_contrast(units: Any, data: TrainingImagesConfig, in_chans: int) -> None:
    contrast = measure.contrast(units, data.normalizer(in_chans).std)
    if FAINT <= contrast <= GLARING:
        return
    what = "little" if contrast < FAINT else "much"
    logger.warning(
        "the images have %s contrast: their standard deviation after normalization is %.2g, where 1 is usual. "
        "--data.mean auto --data.std auto sets both from the images%s",
        what, contrast, "" if data.value_range is None else "; or change --data.value_range",
    )  # fmt: skip


def _text(numbers: Sequence[float]) -> str:
    return ",".join(f"{number:g}" for number in numbers)

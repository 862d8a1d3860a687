"""The collapse.json that ``python -m fcmae.collapse`` wrote into a run folder: distance against depth, by network."""

import json
import logging
import math
from pathlib import Path
from typing import Any, NamedTuple

logger = logging.getLogger(__name__)

PLACES = ("collapse.json", "collapse/collapse.json")  # in the run folder; the first that is there counts


class DepthCurve(NamedTuple):
    """Mean cosine distance between the channels of each block of a network."""

    name: str
    depths: list[float]
    """0 for the first block … 1 for the last, ascending."""
    distances: list[float]
    """0 … 1; NaN where it was not measured."""


def read_depth_curves(run: Path) -> list[DepthCurve]:
    """The curves; none where there is no such file, or one that cannot be understood, which the log then names."""
    file = next((run / place for place in PLACES if (run / place).is_file()), None)
    if file is None:
        return []
    try:
        models = json.loads(file.read_text(encoding="utf-8", errors="replace"))["models"]
        return [_curve(name, model["blocks"]) for name, model in models.items()]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        logger.warning("%s is not what python -m fcmae.collapse writes and is left out: %s", file, reason)
        return []


def _curve(name: str, blocks: list[dict[str, Any]]) -> DepthCurve:
    rows = sorted((float(block["depth"]), _or_nan(block["distance"])) for block in blocks)
    return DepthCurve(name, [depth for depth, _ in rows], [distance for _, distance in rows])


def _or_nan(number: float | None) -> float:
    return math.nan if number is None else float(number)

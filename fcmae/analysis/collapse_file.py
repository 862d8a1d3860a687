"""Results of a collapse analysis on disk: written by ``fcmae collapse``, read by the report of a run."""

import csv
import io
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fcmae.errors import brief
from fcmae.files import write_text

if TYPE_CHECKING:
    from fcmae.analysis.collapse import BlockCollapse  # it needs torch, which takes seconds to import

logger = logging.getLogger(__name__)

TABLE, NUMBERS = "collapse.csv", "collapse.json"
PLACES = (NUMBERS, f"collapse/{NUMBERS}")  # in the run folder; the first that exists is used


class DepthCurve(NamedTuple):
    """Mean cosine distance between the channels of each block of a network."""

    name: str
    depths: list[float]
    """0 for the first block … 1 for the last, ascending."""
    distances: list[float]
    """0 … 1; NaN where not measured."""


def write_collapse(
    folder: Path,
    results: "Mapping[str, Sequence[BlockCollapse]]",
    described: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, Any],
) -> None:
    """Write collapse.csv, one row per block, and collapse.json, which also records what was analyzed and how.

    Args:
        folder: created if missing.
        results: label → rows of the blocks.
        described: label → description of the network and its images.
        settings: settings of the whole analysis.
    """
    from fcmae.analysis.collapse import BlockCollapse

    folder.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, ["model", *(field.name for field in fields(BlockCollapse))], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"model": label} | asdict(row) for label, rows in results.items() for row in rows)
    write_text(folder / TABLE, text.getvalue())
    models = {
        label: {**described[label], "blocks": [_without_nan(asdict(row)) for row in rows]}
        for label, rows in results.items()
    }
    write_text(folder / NUMBERS, json.dumps({"settings": settings, "models": models}, indent=2) + "\n")


def _without_nan(row: dict[str, Any]) -> dict[str, Any]:
    """NaN as None, because JSON has no NaN."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}


def read_depth_curves(run: Path) -> list[DepthCurve]:
    """The curves of a run; empty if there is no such file. A file that cannot be parsed is logged and skipped."""
    file = next((run / place for place in PLACES if (run / place).is_file()), None)
    if file is None:
        return []
    try:
        models = json.loads(file.read_text(encoding="utf-8", errors="replace"))["models"]
        return [_curve(name, model["blocks"]) for name, model in models.items()]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = brief(f"{type(error).__name__}: {error}")
        logger.warning("%s was not written by fcmae collapse and is skipped: %s", file, reason)
        return []


def _curve(name: str, blocks: list[dict[str, Any]]) -> DepthCurve:
    rows = sorted((float(block["depth"]), _or_nan(block["distance"])) for block in blocks)
    return DepthCurve(name, [depth for depth, _ in rows], [distance for _, distance in rows])


def _or_nan(number: float | None) -> float:
    return math.nan if number is None else float(number)

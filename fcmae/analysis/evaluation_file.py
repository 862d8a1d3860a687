"""An evaluation as a table, and evaluation.json, which ``fcmae evaluate`` writes and the report of a run reads."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcmae.errors import brief

logger = logging.getLogger(__name__)

RESULT = "evaluation.json"
PLACES = (RESULT, f"evaluation/{RESULT}")  # in the run folder; the first that exists is used
COLUMNS = (("kNN top-1", "knn", "top1"), ("kNN top-5", "knn", "top5"),
           ("linear top-1", "linear", "top1"), ("linear top-5", "linear", "top5"))  # fmt: skip


@dataclass(frozen=True)
class EvaluationTable:
    """An evaluation as text: percent correct, with 95% intervals."""

    about: str
    """The data and the numbers of images and classes."""
    columns: list[str]
    rows: list[tuple[str, list[str]]]
    """Name of the network → a cell for each column."""


def read_evaluation(run: Path) -> EvaluationTable | None:
    """The evaluation of a run; None if there is no such file. A file that cannot be parsed is logged and skipped."""
    file = next((run / place for place in PLACES if (run / place).is_file()), None)
    if file is None:
        return None
    try:
        return table_of(json.loads(file.read_text(encoding="utf-8", errors="replace")))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = brief(f"{type(error).__name__}: {error}")
        logger.warning("%s was not written by fcmae evaluate and is skipped: %s", file, reason)
        return None


def table_of(content: dict[str, Any]) -> EvaluationTable:
    """The table of the plain data of :meth:`fcmae.analysis.evaluation.Evaluation.as_dict`."""
    results = content["results"]
    shown = [(title, probe, top) for title, probe, top in COLUMNS if top in results[0][probe]]
    first = results[0]
    about = (
        f"{content['data']}: {first['train_images']:,} training images, {first['test_images']:,} test images, "
        f"{first['classes']:,} classes; percent correct [95% interval]"
    )
    rows = [(str(row["name"]), [_cell(row[probe][top]) for _, probe, top in shown]) for row in results]
    return EvaluationTable(about, [title for title, *_ in shown], rows)


def _cell(accuracy: dict[str, float]) -> str:
    return f"{100 * accuracy['accuracy']:.1f} [{100 * accuracy['low']:.1f}, {100 * accuracy['high']:.1f}]"

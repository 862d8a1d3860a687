"""What the report of a fine-tuning run shows of its best validation: confusions or average precision, mistakes."""

import base64
import io
import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from fcmae.runs.layout import VALIDATION
from fcmae.wording import counted

logger = logging.getLogger(__name__)

SCORES, MISTAKES = "scores.json", "mistakes.png"
LARGEST = 30  # classes; of more, the worst are listed, instead of a matrix the pairs that are confused most often
PAIRS = 15


@dataclass(frozen=True)
class Cell:
    """A cell of the confusion matrix."""

    count: int
    share: float
    """Of the images of the row's class."""


@dataclass(frozen=True)
class Validation:
    """The validation whose weights are the best."""

    summary: str
    classes: list[str]
    matrix: list[tuple[str, list[Cell]]]
    """Rows of the true classes; empty if there are too many classes, or an image may have several."""
    pairs: list[tuple[str, str, int]]
    """True class, what it was taken for, how often; the most frequent first."""
    precisions: list[tuple[str, int, float | None]]
    """Class, images that have it, average precision; the least first, at most 30. Empty if an image has one class."""
    mistakes: str | None
    """The picture as a data: URI."""
    mistakes_size: tuple[int, int]
    mistakes_named: list[tuple[str, str, str]]
    """Of each in the picture: the image, its class, what it was taken for."""


def read_validation(run: Path) -> Validation | None:
    """RUN/validation; None if there is none, or it is damaged, which the log says."""
    file = run / VALIDATION / SCORES
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        classes = [str(name) for name in content["classes"]]
        counts = [[int(count) for count in row] for row in content.get("confusion", [])]
        if any(len(row) != len(classes) for row in counts) or len(counts) not in (0, len(classes)):
            raise ValueError("the confusion matrix is not square")
        confused = content.get("confused", [])  # in place of the matrix of many classes
        pairs = [(str(pair["label"]), str(pair["predicted"]), int(pair["images"])) for pair in confused]
        precisions = [
            (str(one["label"]), int(one["images"]), _precision(one["average_precision"]))
            for one in content.get("average_precision", [])
        ]
        named = [
            (str(one["image"]), _classes(one["label"]), _classes(one["predicted"]))
            for one in content.get("mistakes", [])
        ]
        summary = _summary(content)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        logger.warning("%s cannot be read and is left out: %s", file, error)
        return None
    mistakes, size = _picture(run / VALIDATION / MISTAKES)
    pairs += [
        (classes[n], classes[m], count)
        for n, row in enumerate(counts)
        for m, count in enumerate(row)
        if n != m and count
    ]
    pairs.sort(key=lambda pair: -pair[2])
    precisions.sort(key=lambda one: math.inf if one[2] is None else one[2])
    matrix = []
    if len(classes) <= LARGEST:
        for name, row in zip(classes, counts, strict=False):
            whole = max(1, sum(row))
            matrix.append((name, [Cell(count, round(count / whole, 4)) for count in row]))
    return Validation(summary, classes, matrix, pairs[:PAIRS], precisions[:LARGEST], mistakes, size, named)


def _classes(names: str | list[str]) -> str:
    return names if isinstance(names, str) else ", ".join(names) or "–"


def _precision(value: float | None) -> float | None:
    return None if value is None else float(value)


def _summary(content: dict[str, Any]) -> str:
    scores, place = content["scores"], f"after step {content['step']:,}, on {counted(content['images'], 'image')}"
    name = "val_top1" if "val_top1" in scores else "val_map"
    interval = ""
    if f"{name}_low" in scores:
        low, high = (100 * float(scores[f"{name}_{end}"]) for end in ("low", "high"))
        interval = f" [95% interval {low:.1f} to {high:.1f}]"
    share = f"{100 * float(scores[name]):.1f}%"
    what = f"{share} correct" if name == "val_top1" else f"mean average precision {share}"
    return f"{what}{interval}, {place}"


def _picture(file: Path) -> tuple[str | None, tuple[int, int]]:
    if not file.is_file():
        return None, (0, 0)
    try:
        with Image.open(file) as opened:
            picture = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        logger.warning("%s cannot be read and is skipped: %s", file, error)
        return None, (0, 0)
    png = io.BytesIO()
    picture.save(png, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode("ascii"), picture.size

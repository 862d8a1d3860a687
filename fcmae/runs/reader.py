"""Reads a run folder leniently: the run may be new, interrupted, copied, or incomplete."""

import json
import logging
import math
from array import array
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from fcmae.errors import UserError
from fcmae.runs import checkpoint as ckpt
from fcmae.runs.layout import CONFIG, EVENTS, HEADER, METRICS, PICTURES, check_is_run, flat
from fcmae.runs.starts import read_starts

logger = logging.getLogger(__name__)

# written by the monitor; the stage's number follows its prefix
KNN, STAGE_DISTANCE, HOLDOUT_LOSS = "knn_top1", "cosine_distance_stage_", "holdout_loss"
PLACE = ("step", "epoch")  # position of a line of metrics.jsonl; every other number on the line is a value there


class Series(NamedTuple):
    """One value over training: float64 arrays of the same length, by increasing step; NaN where there is no number."""

    step: np.ndarray
    epoch: np.ndarray
    value: np.ndarray


@dataclass(frozen=True)
class RunFolder:
    """The contents of a run folder; missing parts are empty or None."""

    path: Path
    written_by: str
    """Versions of fcmae and torch and the number of processes, from the first line of config.yaml."""
    config_text: str | None
    config: dict[str, Any]
    """Settings by dotted name ("train.epochs"); empty if config.yaml is missing or invalid."""
    series: dict[str, Series]
    """Every number logged in metrics.jsonl, by name."""
    broken_lines: int
    """Lines of metrics.jsonl that are not a JSON object with a step."""
    stream: ckpt.TrainState | None
    """From the newest checkpoint: samples per step and per epoch."""
    pictures: list[Path]
    """Reconstructions, by increasing step."""
    starts: list[dict[str, Any]]
    """What each start ran on, oldest first; runs of older versions have none."""
    started: float | None
    """Seconds since 1970, from the name of the oldest TensorBoard file."""


def read_run(folder: str | Path) -> RunFolder:
    """Read a run folder without its weights.

    Raises:
        UserError: there is no such folder, or it holds no run.
    """
    path = Path(folder)
    check_is_run(path)
    text = (path / CONFIG).read_text(encoding="utf-8", errors="replace") if (path / CONFIG).is_file() else None
    series, broken_lines = read_metrics(path / METRICS)
    return RunFolder(
        path=path,
        written_by=_written_by(text or ""),
        config_text=text,
        config=_settings(path / CONFIG, text),
        series=series,
        broken_lines=broken_lines,
        stream=_stream(path),
        pictures=sorted((path / PICTURES).glob("step-*.png")),
        starts=read_starts(path),
        started=_started(path),
    )


def read_metrics(file: Path) -> tuple[dict[str, Series], int]:
    """All logged series, and the number of broken lines that were skipped; a missing file has neither."""
    columns: dict[str, tuple[array, array, array]] = defaultdict(lambda: (array("d"), array("d"), array("d")))
    broken = 0
    if file.is_file():
        with file.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if not line.strip():
                    continue
                values = _object(line)
                step = _number(values.get("step"))
                if step is None or math.isnan(step):
                    broken += 1
                    continue
                epoch = _number(values.get("epoch"))
                for name, given in values.items():
                    number = _number(given)
                    if name not in PLACE and number is not None:
                        at_step, at_epoch, column = columns[name]
                        at_step.append(step)
                        at_epoch.append(math.nan if epoch is None else epoch)
                        column.append(number)
    return {name: _sorted(*(np.array(column) for column in three)) for name, three in columns.items()}, broken


def _object(line: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _number(value: object) -> float | None:
    """A number as float; NaN for null and non-finite numbers; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        return None
    try:
        return float(value) if value is not None and math.isfinite(value) else math.nan
    except OverflowError:  # an integer beyond the range of float64
        return math.nan


def _sorted(step: np.ndarray, epoch: np.ndarray, value: np.ndarray) -> Series:
    order = np.argsort(step, kind="stable")
    return Series(step[order], epoch[order], value[order])


def _written_by(config_text: str) -> str:
    first = config_text.partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith(HEADER) else ""


def _settings(file: Path, text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        logger.warning("%s cannot be read as YAML and is shown as it is: %s", file, " ".join(str(error).split()))
        return {}
    return flat(content) if isinstance(content, dict) else {}


def _stream(path: Path) -> ckpt.TrainState | None:
    try:
        newest = ckpt.last_checkpoint(path)
        return None if newest is None else ckpt.read_state(newest)
    except UserError as error:
        logger.warning("%s", error)
        return None


def _started(path: Path) -> float | None:
    """Start time from the name events.out.tfevents.<seconds>.<host>…, because copying a folder changes file times."""
    seconds = (file.name.split(".")[3:4] for file in (path / EVENTS).glob("events.out.tfevents.*"))
    return min((float(part[0]) for part in seconds if part and part[0].isdecimal()), default=None)

"""File names in a run folder. Those of a checkpoint are in :mod:`fcmae.runs.checkpoint`."""

from pathlib import Path
from typing import Any

CONFIG, HEADER = "config.yaml", "# fcmae"  # the run's settings, and the start of that file
METRICS, SUPERSEDED = "metrics.jsonl", "metrics.superseded.jsonl"
EVENTS = "tensorboard"
PICTURES = "reconstructions"


def picture_file(run: Path, step: int) -> Path:
    """Path of the reconstructions drawn after ``step`` steps."""
    return run / PICTURES / f"step-{step:08d}.png"


def flat(tree: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted name: {"train": {"epochs": 1}} → {"train.epochs": 1}."""
    settings: dict[str, Any] = {}
    for key, value in tree.items():
        settings |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return settings

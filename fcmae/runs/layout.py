"""File names in a run folder. Those of a checkpoint are in :mod:`fcmae.runs.checkpoint`."""

from pathlib import Path
from typing import Any

from fcmae.errors import UserError

CONFIG, HEADER = "config.yaml", "# fcmae"  # the run's settings, and the start of that file
METRICS, SUPERSEDED = "metrics.jsonl", "metrics.superseded.jsonl"
CHECKPOINTS = "checkpoints"
EVENTS = "tensorboard"
PICTURES = "reconstructions"
VALIDATION = "validation"
EXPORTS = "export"  # of a fine-tuned run: a folder for each format


def is_run_folder(folder: str | Path) -> bool:
    """Whether a folder is a run's, also a copied or an incomplete one.

    Its marks: a config.yaml of ours, metrics.jsonl next to another part of a run, or our checkpoints.
    """
    path = Path(folder)
    try:
        if (path / METRICS).is_file() and any((path / part).is_dir() for part in (EVENTS, PICTURES, CHECKPOINTS)):
            return True
        if (path / CHECKPOINTS).is_dir() and any((path / CHECKPOINTS).glob("step-*/state.json")):
            return True
        return (path / CONFIG).is_file() and _begins_with_header(path / CONFIG)
    except OSError:  # not ours to read
        return False


def _begins_with_header(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(len(HEADER)) == HEADER.encode()


def check_is_run(folder: Path) -> None:
    """UserError if there is no such folder, or it holds no run."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {what}; give a run folder, as written by fcmae pretrain --output")
    if not (folder / CONFIG).is_file() and not (folder / METRICS).is_file():
        raise UserError(f"{folder} is not a run folder: it has neither {CONFIG} nor {METRICS}")


def picture_file(run: Path, step: int) -> Path:
    """Path of the reconstructions drawn after ``step`` steps."""
    return run / PICTURES / f"step-{step:08d}.png"


def run_of(config: Path) -> Path | None:
    """The run folder that a config.yaml lies in. None: it is another file, or a copy outside of a run folder."""
    if config.name != CONFIG or not any((config.parent / name).exists() for name in (METRICS, CHECKPOINTS, EVENTS)):
        return None
    with config.open(encoding="utf-8", errors="replace") as opened:
        return config.parent if opened.read(len(HEADER)) == HEADER else None


def flat(tree: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted name: {"train": {"epochs": 1}} → {"train.epochs": 1}."""
    settings: dict[str, Any] = {}
    for key, value in tree.items():
        settings |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return settings

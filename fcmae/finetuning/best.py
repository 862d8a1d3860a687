"""The weights with the best validation score: RUN/checkpoints/best, beside the checkpoints to resume from."""

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from fcmae.errors import UserError
from fcmae.files import make_folder, sync
from fcmae.finetuning.scores import MAIN
from fcmae.runs.checkpoint import save_model, synced_folder, write_state
from fcmae.runs.find import BEST, FOLDER, MODEL
from fcmae.runs.layout import METRICS
from fcmae.runs.mark import MARK, write_mark
from fcmae.runs.reader import Series, read_metrics
from fcmae.training.run import Run

PARTIAL, OLD = ".partial-best", ".deleted-best"


def best_folder(run: Path) -> Path:
    """Where the best weights of a run are."""
    return run / FOLDER / BEST


Rank = tuple[float, float]
NONE: Rank = -math.inf, -math.inf
"""Below every validation."""


def rank(score: float, loss: float) -> Rank:
    """What the best validation has the largest of: of equal scores, which small sets often have, the lower loss."""
    return score, -loss


def best_score(run: Path) -> tuple[float | None, int | None]:
    """The best validation score in metrics.jsonl (:func:`rank`) and its step; None: there was no validation."""
    series, _ = read_metrics(run / METRICS)
    for name in MAIN:
        if name in series and np.isfinite(series[name].value).any():
            losses = _by_step(series["val_loss"]) if "val_loss" in series else {}
            found = _by_step(series[name])
            step = max(found, key=lambda step: (rank(found[step], losses.get(step, math.inf)), -step))
            return found[step], step
    return None, None


def _by_step(series: Series) -> dict[int, float]:
    return {int(step): float(v) for step, v in zip(series.step, series.value, strict=True) if np.isfinite(v)}


def restore_best(run: Path) -> None:
    """Bring back the best weights of a run that was killed while others took their place."""
    target = best_folder(run)
    if not target.exists() and target.with_name(OLD).exists():
        target.with_name(OLD).rename(target)


def save_best(run: Run[Any], network: nn.Module, described: dict[str, Any], step: int) -> None:
    """Write the weights, and what they are, in place of the best so far.

    Raises:
        UserError: a folder of that name is there that no run of fine-tuning wrote.
        OSError: a file cannot be written. The best weights so far are still there.
    """
    target = best_folder(run.folder)
    if target.exists() and not (target / MARK).is_file():
        raise UserError(f"{target} is not this run's; move it away")
    partial, old = target.with_name(PARTIAL), target.with_name(OLD)
    shutil.rmtree(old, ignore_errors=True)
    make_folder(target.parent)
    with synced_folder(partial):
        save_model(partial / MODEL, network, described)
        write_state(partial, replace(run.start, step=step, pending_losses=[]))
        write_mark(partial, run.folder.name, BEST)
    if target.exists():
        target.rename(old)
    partial.rename(target)
    sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)

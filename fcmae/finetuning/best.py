"""The weights with the best validation score: RUN/checkpoints/best, beside the checkpoints to resume from."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from fcmae.errors import UserError
from fcmae.files import make_folder, sync
from fcmae.runs.checkpoint import save_model, synced_folder, write_state
from fcmae.runs.find import BEST, FOLDER, MODEL
from fcmae.runs.mark import MARK, write_mark
from fcmae.training.run import Run

PARTIAL, OLD = ".partial-best", ".deleted-best"


def best_folder(run: Path) -> Path:
    """Where the best weights of a run are."""
    return run / FOLDER / BEST


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

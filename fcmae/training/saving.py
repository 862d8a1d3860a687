"""Checkpoints of a run, written by the main process, and what ends a run whose numbers are not finite."""

import shlex
from typing import Any

from fcmae.errors import UserError
from fcmae.runs import checkpoint as ckpt
from fcmae.training.run import Run


class NonFiniteError(UserError):
    """The loss or a weight became NaN or infinite."""


def non_finite(run: Run[Any], what: str) -> NonFiniteError:
    """The error that names what is not finite, the checkpoint that is kept, and what to try."""
    kept = ckpt.last_checkpoint(run.folder)
    kept_line = f"the last good checkpoint is kept: {kept}" if kept else "no checkpoint had been written yet"
    resume = f"--resume {shlex.quote(str(kept))} --output ANOTHER and " if kept else ""
    return NonFiniteError(f"{what}; stopped, {kept_line}. Try {resume}a lower --train.base_lr, or --train.clip_grad 1")


def save(run: Run[Any], state: ckpt.TrainState) -> None:
    """Save a checkpoint. NonFiniteError if a weight is not finite: the next loss would show it only after saving."""
    bad = next((n for n, p in run.bare_model.named_parameters() if not p.isfinite().all()), None)
    if bad is not None:
        raise non_finite(run, f"the weight {bad} is not finite after step {state.step}")
    if run.accelerator.is_main_process:
        try:
            ckpt.save_checkpoint(
                run.folder, run.bare_model, run.task.network(run), run.optimizer, state, run.task.average(run)
            )
        except OSError as error:
            reason = f"{error.strerror} ({error.filename})" if error.strerror and error.filename else error
            raise UserError(
                f"no checkpoint could be written to {run.folder} at step {state.step}: {reason}; "
                f"earlier checkpoints are unchanged"
            ) from error
        ckpt.delete_old_checkpoints(run.folder, run.config.log.keep_checkpoints)
    run.accelerator.wait_for_everyone()


def checkpoint_bytes(run: Run[Any]) -> int:
    """Size of a checkpoint: the weights, and AdamW's two moments of each."""
    return 3 * sum(parameter.nbytes for parameter in run.bare_model.parameters())

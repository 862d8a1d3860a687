"""Checkpoints of a run, and what ends one whose numbers are not finite."""

import contextlib
import shlex
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object

from fcmae.errors import UserError
from fcmae.files import sync
from fcmae.runs import checkpoint as ckpt
from fcmae.runs.find import OPTIMIZER_SHARDS
from fcmae.training.nodes import wait_for
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
    bad = _not_finite(run)
    if bad is not None:
        raise non_finite(run, f"the weight {bad} is not finite after step {state.step}")
    try:
        if run.is_sharded:
            _save_shards(run, state)
        elif run.writes:
            ckpt.save_checkpoint(
                run.folder, run.bare_model, run.task.network(run), run.optimizer, state, run.task.average(run)
            )
    except OSError as error:
        reason = f"{error.strerror} ({error.filename})" if error.strerror and error.filename else error
        raise UserError(
            f"no checkpoint could be written to {run.folder} at step {state.step}: {reason}; "
            f"earlier checkpoints are unchanged"
        ) from error
    if run.writes:
        ckpt.delete_old_checkpoints(run.folder, run.config.log.keep_checkpoints)
    run.accelerator.wait_for_everyone()


def _not_finite(run: Run[Any]) -> str | None:
    """The name of a parameter that is not finite, the same in all processes."""
    parts: Any = run.bare_model.named_parameters()
    if not run.is_sharded:
        return next((name for name, part in parts if not part.isfinite().all()), None)
    mine = next((name for name, part in parts if not part.to_local().isfinite().all()), None)
    return next(filter(None, gather_object([mine])), None)


def _save_shards(run: Run[Any], state: ckpt.TrainState) -> None:
    """The main process begins and completes the checkpoint; in between all write their share of the optimizer's."""
    from fcmae.runs.shards import save_optimizer, whole_state  # here, because the import takes seconds

    weights = whole_state(run.bare_model, wanted=run.writes)
    with contextlib.ExitStack() as stack:
        name = [str(stack.enter_context(ckpt.new_checkpoint(run.folder, state.step)))] if run.writes else [""]
        broadcast_object_list(name)
        partial = Path(name[0])
        wait_for(partial)
        save_optimizer(partial, run.bare_model, run.optimizer)
        if run.writes:
            ckpt.save_tensors(partial / ckpt.MODEL, weights, run.task.network(run))
            ckpt.write_state(partial, state)
            for file in (partial / OPTIMIZER_SHARDS).iterdir():
                sync(file)


def checkpoint_bytes(run: Run[Any]) -> int:
    """Size of a checkpoint: the weights, and AdamW's two moments of each."""
    return 3 * sum(parameter.nbytes for parameter in run.bare_model.parameters())

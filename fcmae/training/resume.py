"""Which folder a run writes to, which checkpoint it resumes from, and whether it may resume from it."""

import logging
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

from fcmae.config import PretrainConfig
from fcmae.errors import UserError
from fcmae.runs import checkpoint as ckpt
from fcmae.runs.layout import CONFIG, HEADER, flat
from fcmae.training.batch import Batch

logger = logging.getLogger(__name__)

RUNS = Path("runs")
# What a resumed run may change: settings that change no number, and those of the batch, whose product is checked
FREE_GROUPS = ("log.", "monitor.")
FREE_TO_CHANGE = {
    *("output", "resume", "data.path", "data.num_workers", "data.max_pixels"),
    *("model.backend", "model.checkpoint_stages", "model.init_from"),
    *("train.compile", "train.effective_batch", "train.batch_size", "train.accumulation_steps"),
}
WARMUP = "train.warmup_epochs"


def run_folder(config: PretrainConfig, accelerator: Accelerator) -> Path:
    """The run folder. Without ``output`` its name is made of the model and the main process's time."""
    if config.output is not None:
        return Path(config.output)
    name = [f"{config.model.name}-{datetime.now():%Y%m%d-%H%M%S}"]
    if accelerator.num_processes > 1:
        broadcast_object_list(name)
    return RUNS / name[0]


def checkpoint_to_resume(config: PretrainConfig, folder: Path) -> Path | None:
    """The checkpoint that ``resume`` means for this run folder. None: start from scratch.

    Raises:
        UserError: the run would overwrite what is in the folder.
    """
    if folder.is_file():
        raise UserError(f"--output {folder} is a file; give a folder")
    here = ckpt.last_checkpoint(folder)
    taken = folder / CONFIG
    if taken.is_file() and here is None and not taken.read_text(errors="replace").startswith(HEADER):
        raise UserError(f"--output {folder} holds a {CONFIG} that was not written by a run; give another --output")
    if config.resume == "auto":
        return here
    if config.resume == "none":
        if here is not None or taken.is_file():
            raise UserError(
                f"--output {folder} already holds a run; use --resume auto to resume it, or another --output"
            )
        return None
    try:
        chosen = ckpt.resolve_checkpoint(config.resume)
    except UserError as error:
        raise UserError(f"--resume takes auto, none or a path: {error}") from None
    if here is not None and here.resolve() != chosen.resolve():
        raise UserError(
            f"--output {folder} holds a run whose newest checkpoint is {here.name}; resuming from {chosen} would "
            f"overwrite it; give another --output"
        )
    return chosen


def make_and_lock(folder: Path) -> FileLock:
    """Create the run folder and lock it until the lock is released or this process dies.

    Raises:
        UserError: the folder cannot be created, or another process is training into it.
    """
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(f"--output {folder} is in use by another process; give another --output") from None
    except OSError as error:  # filelock falls back to a lock file where there is no flock
        raise UserError(f"--output {folder} cannot be created or locked: {error.strerror}; give another") from None
    return lock


def recorded_settings(checkpoint: Path) -> dict[str, Any]:
    """The settings of the run that wrote a checkpoint, by dotted name; empty if its config.yaml is gone.

    Raises:
        UserError: config.yaml is damaged.
    """
    file = checkpoint.parent.parent / CONFIG
    if not file.is_file():
        return {}
    try:
        return flat(yaml.safe_load(file.read_text()))
    except (yaml.YAMLError, AttributeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not a configuration: {' '.join(str(error).split())}") from None


def check_same_run(config: PretrainConfig, checkpoint: Path, before: dict[str, Any]) -> None:
    """UserError if a setting that shapes the numbers differs from ``before``, the settings of the checkpoint's run."""
    changed = {
        key: now
        for key, now in flat(config.as_dict()).items()
        if key in before and before[key] != now and key not in FREE_TO_CHANGE and not key.startswith(FREE_GROUPS)
    }
    if config.train.warmup_epochs is None:
        changed.pop(WARMUP, None)  # unset: resumed_warmup decides
    # a checkpoint given by path may be trained on with other settings, for example after a loss that was not finite
    by_name = config.resume not in ("auto", "none")
    may_change = {key for key in changed if key == "train.epochs" or (by_name and key.startswith("train."))}
    for key in changed.keys() - may_change:
        raise UserError(
            f"--{key} is {changed[key]}, but {checkpoint} was trained with {before[key]}; "
            f"resume with the same value, or give another --output to start from scratch"
        )
    for key in sorted(may_change):
        logger.warning("--%s was %s and is now %s: training changes from here on", key, before[key], changed[key])


def resumed_warmup(config: PretrainConfig, before: dict[str, Any]) -> float:
    """Epochs of warm-up, for ``before``, the settings of the run to resume (empty: none).

    If ``warmup_epochs`` is unset, a resumed run keeps its warm-up even if ``train.epochs`` changes. Only if that would
    be longer than the training is it 5% of the new epochs.
    """
    recorded = before.get(WARMUP)
    if config.train.warmup_epochs is None and isinstance(recorded, int | float) and 0 <= recorded < config.train.epochs:
        return recorded
    return config.train.warmup


def check_same_stream(state: ckpt.TrainState, now: ckpt.TrainState, batch: Batch) -> None:
    """UserError if the checkpoint's steps had another number of images; a warning if they were other images."""
    if state.effective_batch != now.effective_batch:
        raise UserError(
            f"the checkpoint was trained with {state.effective_batch} images per step, now it would be "
            f"{now.effective_batch} ({batch}); change one of them, or give only "
            f"--train.effective_batch {state.effective_batch}"
        )
    if (state.samples_per_epoch, state.images_digest) != (now.samples_per_epoch, now.images_digest):
        logger.warning(
            "these are not the images of the checkpoint (an epoch had %d samples and now has %d): "
            "training changes from here on",
            state.samples_per_epoch, now.samples_per_epoch,
        )  # fmt: skip

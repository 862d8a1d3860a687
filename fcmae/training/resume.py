"""Which folder a run writes to, whether it goes on from a checkpoint, and whether it may."""

import logging
from datetime import datetime
from pathlib import Path

import yaml
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

from fcmae.config import PretrainConfig
from fcmae.errors import UserError
from fcmae.runs import checkpoint as ckpt
from fcmae.runs.layout import CONFIG, HEADER, flat

logger = logging.getLogger(__name__)

RUNS = Path("runs")
# What a resumed run may have otherwise: it changes no number, or (the shares of a step's batch) is checked as a product
FREE_GROUPS = ("log.", "monitor.")
FREE_TO_CHANGE = {
    *("output", "resume", "data.path", "data.num_workers"),
    *("model.backend", "model.checkpoint_stages", "model.init_from"),
    *("train.compile", "train.batch_size", "train.accumulation_steps"),
}


def run_folder(config: PretrainConfig, accelerator: Accelerator) -> Path:
    """The run folder; without ``output`` one named by model and time, the main process's clock."""
    if config.output is not None:
        return Path(config.output)
    name = [f"{config.model.name}-{datetime.now():%Y%m%d-%H%M%S}"]
    if accelerator.num_processes > 1:
        broadcast_object_list(name)
    return RUNS / name[0]


def checkpoint_to_resume(config: PretrainConfig, folder: Path) -> Path | None:
    """The checkpoint that ``resume`` means for this run folder; None: begin anew.

    Raises:
        UserError: going on, or beginning, would write over what is in the folder.
    """
    if folder.is_file():
        raise UserError(f"--output {folder} is a file; give a folder")
    here = ckpt.last_checkpoint(folder)
    taken = folder / CONFIG
    if taken.is_file() and here is None and not taken.read_text(errors="replace").startswith(HEADER):
        raise UserError(f"--output {folder} holds a {CONFIG} that no run wrote; give another --output")
    if config.resume == "auto":
        return here
    if config.resume == "none":
        if here is not None or taken.is_file():
            raise UserError(f"--output {folder} holds a run already; use --resume auto to go on, or another --output")
        return None
    try:
        chosen = ckpt.resolve_checkpoint(config.resume)
    except UserError as error:
        raise UserError(f"--resume takes auto, none or a path: {error}") from None
    if here is not None and here.resolve() != chosen.resolve():
        raise UserError(
            f"--output {folder} holds a run whose newest checkpoint is {here.name}; going on from {chosen} would write "
            f"over it; give another --output"
        )
    return chosen


def make_and_lock(folder: Path) -> FileLock:
    """Make the run folder and keep other processes out of it until the lock is released, or this process dies.

    Raises:
        UserError: it cannot be made, or another process is training into it.
    """
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(f"--output {folder} is being written to by another process; give another --output") from None
    except OSError as error:  # where the file system has no flock at all, filelock itself takes a lock file instead
        raise UserError(f"--output {folder} cannot be made or locked: {error.strerror}; give another") from None
    return lock


def check_same_run(config: PretrainConfig, checkpoint: Path) -> None:
    """UserError if a setting that shapes the numbers is not the one that the checkpoint was trained with."""
    file = checkpoint.parent.parent / CONFIG
    if not file.is_file():
        return
    try:
        before = flat(yaml.safe_load(file.read_text()))
    except (yaml.YAMLError, AttributeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not a configuration: {' '.join(str(error).split())}") from None
    changed = {
        key: now
        for key, now in flat(config.as_dict()).items()
        if key in before and before[key] != now and key not in FREE_TO_CHANGE and not key.startswith(FREE_GROUPS)
    }
    # a checkpoint named on purpose may be trained on in another way, say after a loss that was not finite
    by_name = config.resume not in ("auto", "none")
    may_change = {key for key in changed if key == "train.epochs" or (by_name and key.startswith("train."))}
    for key in changed.keys() - may_change:
        raise UserError(
            f"--{key} is {changed[key]}, but {checkpoint} was trained with {before[key]}; "
            f"go on with the same, or give another --output to begin anew"
        )
    for key in sorted(may_change):
        logger.warning("--%s was %s and is %s now: training changes from here on", key, before[key], changed[key])


def check_same_stream(state: ckpt.TrainState, now: ckpt.TrainState, config: PretrainConfig, num_processes: int) -> None:
    """The stream of samples must be cut into the same steps; UserError if it would not be."""
    if state.effective_batch != now.effective_batch:
        raise UserError(
            f"the checkpoint was trained with {state.effective_batch} images per step, now it would be "
            f"{now.effective_batch} (--train.batch_size {config.train.batch_size} × --train.accumulation_steps "
            f"{config.train.accumulation_steps} × {num_processes} processes); change one so that the product stays"
        )
    if (state.samples_per_epoch, state.images_digest) != (now.samples_per_epoch, now.images_digest):
        logger.warning(
            "these are not the images of the checkpoint (an epoch had %d samples and has %d now): "
            "training changes from here on",
            state.samples_per_epoch, now.samples_per_epoch,
        )  # fmt: skip

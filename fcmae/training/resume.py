"""Which folder a run writes to, which checkpoint it resumes from, and whether it may resume from it."""

import logging
import os
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import psutil
import yaml
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

from fcmae.config import OptimizationConfig
from fcmae.config.run import RunConfig
from fcmae.data.sources.digest import difference
from fcmae.data.sources.image_set import ImageSet
from fcmae.errors import UserError
from fcmae.runs import checkpoint as ckpt
from fcmae.runs.layout import CONFIG, EVENTS, HEADER, PICTURES, flat
from fcmae.training.batch import Batch, base_learning_rate
from fcmae.training.peers import LAUNCHER
from fcmae.wording import counted

logger = logging.getLogger(__name__)

RUNS = Path("runs")
TO_FREE = 100.0  # seconds that NFS takes to free the lock of a machine that died
T = TypeVar("T", bound=OptimizationConfig)
HOLDOUT = "monitor.holdout"  # no measurement like the others of its group: it takes images out of training
# What a resumed run may change: settings that change no number, and those of the batch, whose product is checked
FREE_GROUPS = ("log.", "monitor.")
FREE_TO_CHANGE = {
    *("output", "resume", "device", "data.path", "data.num_workers", "data.max_pixels"),
    *("data.cache_dir", "data.cache_size", "data.timeout"),
    *("model.backend", "model.checkpoint_stages", "model.init_from", "model.use_ema"),
    *("weights", "data.download", "model.checkpoint_activations"),  # of fine-tuning
    *("train.compile", "train.cuda_graphs", "train.effective_batch", "train.batch_size", "train.accumulation_steps"),
    "train.parallel",
}
# what an unset one is depends on the run, which therefore keeps its own
KEPT_IF_UNSET = ("train.warmup_epochs", "train.base_lr")
ADDED = {"data.crops_per_image": 1}  # what runs did that are older than the setting


def run_folder(config: RunConfig, accelerator: Accelerator) -> Path:
    """The run folder. Without ``output`` its name is made of the model and the time when the main process, or its
    torchrun, started: one that torchrun starts again goes on in the same folder."""
    if config.output is not None:
        return Path(config.output)
    started = datetime.now()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        with suppress(psutil.Error):
            started = datetime.fromtimestamp(psutil.Process(LAUNCHER).create_time())
    name = [f"{config.model.name or 'finetune'}-{started:%Y%m%d-%H%M%S}"]
    if accelerator.num_processes > 1:
        broadcast_object_list(name)
    return RUNS / name[0]


def checkpoint_to_resume(config: RunConfig, folder: Path) -> Path | None:
    """The checkpoint that ``resume`` means for this run folder. None: start from scratch.

    Raises:
        UserError: the run would overwrite what is in the folder.
    """
    if folder.is_file():
        raise UserError(f"--output {folder} is a file; give a folder")
    for name in (ckpt.FOLDER, EVENTS, PICTURES):
        if (folder / name).exists() and not (folder / name).is_dir():
            raise UserError(f"--output {folder} holds a file {name}, where a run has a folder; give another --output")
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
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if not _may_be_of_a_dead_machine():
                raise
            logger.warning("--output %s is locked; waiting up to %g s, in case a machine died", folder, TO_FREE)
            lock.acquire(timeout=TO_FREE)
    except Timeout:
        raise UserError(f"--output {folder} is in use by another process; give another --output") from None
    except OSError as error:  # filelock falls back to a lock file where there is no flock
        raise UserError(f"--output {folder} cannot be created or locked: {error.strerror}; give another") from None
    return lock


def _may_be_of_a_dead_machine() -> bool:
    """Whether torchrun has started the run again, or starts it on several machines, of which one may be a new one."""
    restarts, machines = (os.environ.get(name, "0") for name in ("TORCHELASTIC_RESTART_COUNT", "GROUP_WORLD_SIZE"))
    return restarts != "0" or machines not in ("0", "1")


def recorded_settings(checkpoint: Path) -> dict[str, Any]:
    """The settings that a checkpoint was trained with, by dotted name; empty if nothing tells.

    They are in the checkpoint, because users edit config.yaml; those of older versions are in config.yaml only.

    Raises:
        UserError: state.json or config.yaml is damaged.
    """
    if settings := ckpt.read_state(checkpoint).settings:
        return flat(settings)
    file = checkpoint.parent.parent / CONFIG
    if not file.is_file():
        return {}
    try:
        return flat(yaml.safe_load(file.read_text()))
    except (yaml.YAMLError, AttributeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{file} is not a configuration: {' '.join(str(error).split())}") from None


def log_if_moved(folder: Path) -> None:
    """One line if the run folder was moved or copied since its config.yaml was written."""
    with suppress(OSError, ValueError, RecursionError, yaml.YAMLError, AttributeError):
        before = yaml.safe_load((folder / CONFIG).read_text()).get("output")
        if isinstance(before, str) and Path(before).resolve() != folder.resolve():
            logger.info("the run was moved or copied from %s; it goes on in %s", before, folder)


def check_same_run(config: RunConfig, checkpoint: Path, before: dict[str, Any]) -> None:
    """UserError if a setting that shapes the numbers differs from ``before``, the settings of the checkpoint's run."""
    before = before and ADDED | before
    settings = flat(config.as_dict())
    changed = {
        key: now
        for key, now in settings.items()
        if key in before and before[key] != now and key not in FREE_TO_CHANGE and not key.startswith(FREE_GROUPS)
    }
    for key in KEPT_IF_UNSET:
        if settings[key] is None:
            changed.pop(key, None)
    held_out = settings.get(HOLDOUT, 0)
    if before and held_out != before.get(HOLDOUT, 0):  # runs of before there was one held nothing out
        raise UserError(
            f"--{HOLDOUT} is {held_out:g}, but {checkpoint} was trained with {before.get(HOLDOUT, 0):g}; "
            f"resume with the same value, or give another --output to start from scratch"
        )
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


def filled_in(train: T, batch: Batch, before: dict[str, Any]) -> T:
    """The settings that config.yaml records: what was unset has its value.

    A resumed run keeps its warm-up and its learning rate if they are unset, even if ``train.epochs`` changes. Only a
    warm-up that would be longer than the training becomes 5% of the new epochs. Where effective_batch determines
    accumulation_steps, that stays unset: the run can then be resumed on any number of processes.

    Args:
        train: the settings as given.
        batch: how the images of a step are divided.
        before: the settings of the run to resume, by dotted name; empty: none.
    """
    recorded_warmup, recorded_lr = (before.get(key) for key in KEPT_IF_UNSET)
    warmup, base_lr = train.warmup, base_learning_rate(train, batch.effective)
    if train.warmup_epochs is None and isinstance(recorded_warmup, int | float) and 0 <= recorded_warmup < train.epochs:
        warmup = recorded_warmup
    if train.base_lr is None and isinstance(recorded_lr, int | float) and recorded_lr > 0:
        base_lr = recorded_lr
    steps = batch.accumulation_steps if train.effective_batch is None else train.accumulation_steps
    return replace(train, batch_size=batch.size, accumulation_steps=steps, warmup_epochs=warmup, base_lr=base_lr)


def check_same_stream(state: ckpt.TrainState, now: ckpt.TrainState, batch: Batch, images: ImageSet) -> None:
    """UserError if the checkpoint's steps had another number of images; a warning if they were other images."""
    if state.effective_batch != now.effective_batch:
        raise UserError(
            f"the checkpoint was trained with {counted(state.effective_batch, 'image')} per step, now it would be "
            f"{now.effective_batch} ({batch}); change one of them, or give only "
            f"--train.effective_batch {state.effective_batch}"
        )
    differ = difference(state.images_digest, now.images_digest, images)
    if state.samples_per_epoch != now.samples_per_epoch:
        logger.warning(
            "these are not the images of the checkpoint (an epoch had %d samples and now has %d): "
            "training changes from here on",
            state.samples_per_epoch, now.samples_per_epoch,
        )  # fmt: skip
    elif differ is not None and differ[1]:
        logger.warning("these are not the images of the checkpoint (%s): training changes from here on", differ[0])
    elif differ is not None:
        logger.info("taken for the images of the checkpoint: %s", differ[0])

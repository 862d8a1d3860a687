"""Checkpoints, pictures and measurements of a run, written by the main process."""

import logging
import shlex
from typing import Any

import torch
from torchvision.transforms.v2 import functional as TF

from fcmae.analysis.reconstructions import paste_reconstruction, reconstruction_picture, save_picture
from fcmae.config import PretrainConfig
from fcmae.errors import UserError
from fcmae.models.patches import enlarge_mask
from fcmae.runs import checkpoint as ckpt
from fcmae.runs.layout import picture_file
from fcmae.runs.metrics import MetricsLog
from fcmae.runs.reader import HOLDOUT_LOSS, KNN, STAGE_DISTANCE
from fcmae.training.monitor import GROUP, in_words
from fcmae.training.setup import Run

logger = logging.getLogger("fcmae")


class NonFiniteError(UserError):
    """The loss or a weight became NaN or infinite."""


def non_finite(run: Run, what: str) -> NonFiniteError:
    """The error that names what is not finite, the checkpoint that is kept, and what to try."""
    kept = ckpt.last_checkpoint(run.folder)
    kept_line = f"the last good checkpoint is kept: {kept}" if kept else "no checkpoint had been written yet"
    resume = f"--resume {shlex.quote(str(kept))} --output ANOTHER and " if kept else ""
    return NonFiniteError(f"{what}; stopped, {kept_line}. Try {resume}a lower --train.base_lr, or --train.clip_grad 1")


def save(run: Run, state: ckpt.TrainState) -> None:
    """Save a checkpoint. NonFiniteError if a weight is not finite: the next loss would show it only after saving."""
    bad = next((n for n, p in run.bare_model.named_parameters() if not p.isfinite().all()), None)
    if bad is not None:
        raise non_finite(run, f"the weight {bad} is not finite after step {state.step}")
    if run.accelerator.is_main_process:
        try:
            ckpt.save_checkpoint(run.folder, run.bare_model, _network(run.config), run.optimizer, state)
        except OSError as error:
            reason = f"{error.strerror} ({error.filename})" if error.strerror and error.filename else error
            raise UserError(
                f"no checkpoint could be written to {run.folder} at step {state.step}: {reason}; "
                f"earlier checkpoints are unchanged"
            ) from error
        ckpt.delete_old_checkpoints(run.folder, run.config.log.keep_checkpoints)
    run.accelerator.wait_for_everyone()


def make_up(run: Run, before: dict[str, Any], metrics: MetricsLog | None) -> None:
    """Draw and measure what a process with the settings ``before``, killed after its checkpoint, still had to."""
    step, now = run.start.step, run.config
    is_last = step == run.total_steps

    def is_due(name: str, every: int) -> bool:
        return before.get(name) == every > 0 and (is_last or run.completes_epochs(step, every))

    if is_due("log.pictures_every", now.log.pictures_every) and not picture_file(run.folder, step).exists():
        draw(run, step, metrics)
    measured = any(line["step"] == step and _is_measurement(line) for line in metrics.kept) if metrics else True
    same = all(before.get(f"monitor.{name}", 0) == getattr(now.monitor, name) for name in ("every", "holdout"))
    if same and now.monitor.any_every and (is_last or run.completes_epochs(step, now.monitor.any_every)):
        measure(run, step, None if measured else metrics)


def _is_measurement(line: dict[str, Any]) -> bool:
    return any(name in (KNN, HOLDOUT_LOSS) or name.startswith(STAGE_DISTANCE) for name in line)


def _network(config: PretrainConfig) -> dict[str, Any]:
    """The fields of ModelConfig, for the checkpoint's header."""
    return {name: value for name, value in config.as_dict()["model"].items() if name != "init_from"}


def draw(run: Run, step: int, metrics: MetricsLog | None) -> None:
    """Write RUN/reconstructions/step-….png, and to TensorBoard: always the same images with the same masks."""
    if run.accelerator.is_main_process:
        model, device = run.bare_model, run.accelerator.device
        sample = run.dataset.fixed_samples(run.config.log.pictures_count)
        images = TF.to_dtype(sample.image.to(device), torch.float32, scale=True)
        visible = sample.visible.to(device)
        model.eval()
        with run.accelerator.autocast():
            pasted = paste_reconstruction(model, images, visible, run.dataset.normalize)
        model.train()
        where = enlarge_mask(visible, model.patch_size)
        picture = reconstruction_picture(images, pasted, where, run.config.train.mask_ratio)
        save_picture(picture, picture_file(run.folder, step))
        if metrics:
            metrics.add_picture("reconstructions", picture, step)
    run.accelerator.wait_for_everyone()


def measure(run: Run, step: int, metrics: MetricsLog | None) -> None:
    """Measure the features, and the loss on held-out images, and write a line of metrics, if that was asked for."""
    if not run.config.monitor.any_every:
        return
    if metrics:
        try:
            measured = run.monitor.measure(run.bare_model, run.accelerator.device)
        except (UserError, OSError) as error:
            if step == 0:
                raise
            logger.warning("not measured at step %d: %s", step, error)  # training goes on
        else:
            metrics.write({"step": step, "epoch": round(run.epochs_done(step), 4)} | measured, GROUP)
            logger.info("step %d: %s", step, in_words(measured))
    run.accelerator.wait_for_everyone()

"""The training loop: all steps of a run, and what is written along the way."""

import contextlib
import logging
import math
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torchvision.transforms.v2 import functional as TF
from tqdm.contrib.logging import logging_redirect_tqdm

from fcmae.analysis.reconstructions import paste_reconstruction, reconstruction_picture, save_picture
from fcmae.config import PretrainConfig
from fcmae.data.draws import sample_seed
from fcmae.data.samples import Sample
from fcmae.data.stream import SampleStream, make_loader
from fcmae.data.unreadable import UnreadableFiles
from fcmae.errors import UserError
from fcmae.models.patches import enlarge_mask
from fcmae.runs import checkpoint as ckpt
from fcmae.runs.layout import CONFIG, picture_file
from fcmae.runs.metrics import MetricsLog
from fcmae.training.console import progress_bar, signals_as_question
from fcmae.training.monitor import GROUP
from fcmae.training.optimizer import make_schedule
from fcmae.training.setup import Run

logger = logging.getLogger("fcmae")


class NonFiniteError(UserError):
    """The loss or a weight became NaN or infinite."""


class Fitted(NamedTuple):
    """Where training ended."""

    steps: int
    """Optimizer steps done, those before a resume included."""
    loss: float | None
    """The last one logged: the mean over the steps since the one before. None: none was logged since the resume."""
    is_complete: bool
    """False after a signal that stopped it early."""


def fit(run: Run) -> Fitted:
    """Train from ``run.start`` to the end, or until a signal, and write the files of the run folder."""
    config, train, accelerator = run.config, run.config.train, run.accelerator
    schedule = make_schedule(run.optimizer, train, run.total_steps)
    stream = SampleStream(
        run.start.samples_per_epoch, batch_size=run.batch.size, accumulation_steps=run.batch.accumulation_steps,
        rank=accelerator.process_index, world_size=accelerator.num_processes,
        seed=config.seed, start_step=run.start.step, total_steps=run.total_steps,
    )  # fmt: skip
    loader = make_loader(run.dataset, stream, pin_memory=accelerator.device.type == "cuda")
    unreadable = UnreadableFiles()
    step = run.start.step
    losses: list[torch.Tensor] = []  # not logged yet, on the device: reading them at each step would stall a GPU
    pending = list(run.start.pending_losses)
    last_loss: float | None = None

    run.model.train()
    with contextlib.ExitStack() as stack:
        if run.lock is not None:
            stack.callback(run.lock.release)
        interrupted = stack.enter_context(signals_as_question(accelerator))
        metrics = stack.enter_context(MetricsLog(run.folder, step)) if accelerator.is_main_process else None
        bar = stack.enter_context(progress_bar(run.total_steps, step, accelerator.is_main_process))
        stack.enter_context(logging_redirect_tqdm())
        batches = iter(loader) if step < run.total_steps else iter(())
        if step == 0:
            _measure(run, step, metrics)
        window_start, window_steps = time.perf_counter(), 0

        while step < run.total_steps:
            schedule.step_update(step)
            _seed_step(config.seed, step, accelerator.process_index)
            losses.append(_train_step(run, batches, unreadable))
            step, window_steps = step + 1, window_steps + 1
            bar.update()

            stop = interrupted()
            log_now = step % config.log.every == 0 or step == run.total_steps
            save_now = stop or step == run.total_steps or run.completes_epochs(step, config.log.checkpoint_every)
            if log_now or save_now:
                unreadable.share(accelerator.num_processes)
                pending += _read_losses(run, losses, step)
                losses = []
            if log_now:
                rate = window_steps * run.start.effective_batch / (time.perf_counter() - window_start)
                last_loss = sum(pending) / len(pending)
                values = {
                    "step": step,
                    "epoch": round(run.epochs_done(step), 4),
                    "loss": last_loss,
                    "lr": run.optimizer.param_groups[0]["lr"],
                    "images_per_second": round(rate, 2),
                    "unreadable_images": len(unreadable.seen),
                }
                if metrics:
                    metrics.write(values)
                bar.show(values)
                pending, window_start, window_steps = [], time.perf_counter(), 0
            if save_now:
                _save(run, replace(run.start, step=step, pending_losses=pending))
            if config.log.pictures_every and (
                step == run.total_steps or run.completes_epochs(step, config.log.pictures_every)
            ):
                _draw(run, step)
            if step == run.total_steps or run.completes_epochs(step, config.monitor.every):
                _measure(run, step, metrics)
            if stop:
                break
        del batches  # stops the data loading processes

    if unreadable.seen:
        logger.warning("%d image file(s) could not be read and were skipped; each is named above", len(unreadable.seen))
    if step < run.total_steps:
        logger.info("stopped at step %d of %d; saved. To resume: %s", step, run.total_steps, _command_to_resume(run))
    else:
        logger.info("done: %d steps. Pictures and weights are in %s", step, run.folder)
        logger.info('weights for timm: fcmae.convert_to_dense("%s")', run.folder)
    return Fitted(step, last_loss, is_complete=step == run.total_steps)


def _train_step(run: Run, batches: Iterator[Sample], unreadable: UnreadableFiles) -> torch.Tensor:
    """One optimizer step. Returns this process's loss, averaged over its micro-batches."""
    accumulate, device = run.batch.accumulation_steps, run.accelerator.device
    total = torch.zeros((), device=device)
    for micro_batch in range(accumulate):
        batch = next(batches)
        unreadable.note(batch.unreadable)
        images = run.dataset.normalize(batch.image.to(device, non_blocking=True))
        visible = batch.visible.to(device, non_blocking=True)
        scored = None if batch.scored is None else batch.scored.to(device, non_blocking=True)
        is_last = micro_batch == accumulate - 1
        # processes exchange gradients once per step, with the last micro-batch
        with contextlib.nullcontext() if is_last else run.accelerator.no_sync(run.model):
            output = run.model(
                images, visible=visible, num_visible=run.dataset.num_visible, masked_only=True, scored=scored
            )
            loss = output.loss / accumulate
            run.accelerator.backward(loss)
        total += loss.detach()
    if run.config.train.clip_grad is not None:
        run.accelerator.clip_grad_norm_(run.model.parameters(), run.config.train.clip_grad)
    run.optimizer.step()
    run.optimizer.zero_grad()
    return total


def _read_losses(run: Run, losses: list[torch.Tensor], step: int) -> list[float]:
    """Losses of the steps up to ``step``, averaged over processes; NonFiniteError if one is not finite."""
    means = run.accelerator.reduce(torch.stack(losses), reduction="mean").tolist()
    for behind, loss in enumerate(reversed(means)):
        if not math.isfinite(loss) and all(map(math.isfinite, means[: len(means) - 1 - behind])):
            raise _non_finite(run, f"the loss is {loss} at step {step - behind}")
    return means


def _save(run: Run, state: ckpt.TrainState) -> None:
    """Save a checkpoint. NonFiniteError if a weight is not finite: the next loss would show it only after saving."""
    bad = next((n for n, p in run.bare_model.named_parameters() if not p.isfinite().all()), None)
    if bad is not None:
        raise _non_finite(run, f"the weight {bad} is not finite after step {state.step}")
    if run.accelerator.is_main_process:
        try:
            ckpt.save_checkpoint(run.folder, run.bare_model, _network(run.config), run.optimizer, state)
        except OSError as error:
            raise UserError(
                f"no checkpoint could be written to {run.folder} at step {state.step}: {error.strerror or error}; "
                f"earlier checkpoints are unchanged"
            ) from error
        ckpt.delete_old_checkpoints(run.folder, run.config.log.keep_checkpoints)
    run.accelerator.wait_for_everyone()


def _network(config: PretrainConfig) -> dict[str, Any]:
    """The fields of ModelConfig, for the checkpoint's header."""
    return {name: value for name, value in config.as_dict()["model"].items() if name != "init_from"}


def _draw(run: Run, step: int) -> None:
    """Write RUN/reconstructions/step-….png: always the same images with the same masks."""
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
        save_picture(
            reconstruction_picture(images, pasted, where, run.config.train.mask_ratio), picture_file(run.folder, step)
        )
    run.accelerator.wait_for_everyone()


def _measure(run: Run, step: int, metrics: MetricsLog | None) -> None:
    """Measure the features and write a line of metrics, if ``monitor.every`` is set."""
    if not run.config.monitor.every:
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
            logger.info("step %d: %s", step, ", ".join(f"{name} {value:.4f}" for name, value in measured.items()))
    run.accelerator.wait_for_everyone()


def _seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch's generator, which drop path uses: a resumed run draws the same as one that was never stopped."""
    torch.manual_seed(sample_seed(seed, step, rank))


def _non_finite(run: Run, what: str) -> NonFiniteError:
    kept = ckpt.last_checkpoint(run.folder)
    kept_line = f"the last good checkpoint is kept: {kept}" if kept else "no checkpoint had been written yet"
    resume = f"--resume {shlex.quote(str(kept))} --output ANOTHER and " if kept else ""
    return NonFiniteError(f"{what}; stopped, {kept_line}. Try {resume}a lower --train.base_lr, or --train.clip_grad 1")


def _command_to_resume(run: Run) -> str:
    processes = run.accelerator.num_processes
    launcher = f"torchrun --nproc-per-node {processes}" if processes > 1 else shlex.quote(sys.executable)
    return f"{launcher} -m fcmae.pretrain --config {shlex.quote(str(run.folder / CONFIG))}"

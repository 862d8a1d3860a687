"""The training loop: all steps of a run, and what is written along the way."""

import contextlib
import logging
import math
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch

from fcmae.data.draws import sample_seed
from fcmae.data.loader import loading
from fcmae.data.samples import Sample
from fcmae.data.stream import SampleStream
from fcmae.data.unreadable import UnreadableFiles
from fcmae.runs.layout import CONFIG
from fcmae.runs.metrics import MetricsLog
from fcmae.training.closing import closing_lines
from fcmae.training.console import TrainingProgress, signals_as_question
from fcmae.training.optimizer import make_schedule
from fcmae.training.saving import draw, make_up, measure, non_finite
from fcmae.training.saving import save as _save
from fcmae.training.setup import Run

logger = logging.getLogger("fcmae")


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
        num_images=len(run.dataset.paths), crops_per_image=config.data.crops_per_image,
    )  # fmt: skip
    loader = loading(run.dataset, stream, pin_memory=accelerator.device.type == "cuda")
    unreadable = UnreadableFiles()
    step = run.start.step
    losses: list[torch.Tensor] = []  # not logged yet, on the device: reading them at each step would stall a GPU
    pending = list(run.start.pending_losses)
    last_loss: float | None = None

    run.model.train()
    with contextlib.ExitStack() as stack:
        stack.callback(run.peers.close)
        if run.lock is not None:
            stack.callback(run.lock.release)
        bar = TrainingProgress(run.total_steps, step, run.batch.accumulation_steps, accelerator.is_main_process)
        interrupted = stack.enter_context(signals_as_question(accelerator, bar))
        metrics = stack.enter_context(MetricsLog(run.folder, step)) if accelerator.is_main_process else None
        stack.enter_context(bar)
        batches = stack.enter_context(loader) if step < run.total_steps else iter(())
        if step == 0:
            measure(run, step, metrics)
        elif run.resumed_settings is not None:
            make_up(run, run.resumed_settings, metrics)
        else:  # resumed in a folder without a checkpoint: from here on it can be resumed by itself
            _save(run, run.start)
        window_start, window_steps = time.perf_counter(), 0

        while step < run.total_steps:
            schedule.step_update(step)
            _seed_step(config.seed, step, accelerator.process_index)
            losses.append(_train_step(run, batches, unreadable, bar))
            step, window_steps = step + 1, window_steps + 1

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
                if metrics:
                    metrics.sync()
                _save(run, replace(run.start, step=step, pending_losses=pending))
            if config.log.pictures_every and (
                step == run.total_steps or run.completes_epochs(step, config.log.pictures_every)
            ):
                draw(run, step, metrics)
            if step == run.total_steps or run.completes_epochs(step, config.monitor.any_every):
                measure(run, step, metrics)
            if stop:
                break
        run.peers.part()

    if unreadable.seen:
        logger.warning("%d image file(s) could not be read and were skipped; each is named above", len(unreadable.seen))
    if step < run.total_steps:
        logger.info("stopped at step %d of %d; saved. To resume: %s", step, run.total_steps, _command_to_resume(run))
    else:
        for line in closing_lines(run, last_loss):
            logger.info("%s", line)
    return Fitted(step, last_loss, is_complete=step == run.total_steps)


def _train_step(
    run: Run, batches: Iterator[Sample], unreadable: UnreadableFiles, bar: TrainingProgress
) -> torch.Tensor:
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
        bar.update()
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
            raise non_finite(run, f"the loss is {loss} at step {step - behind}")
    return means


def _seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch's generator, which drop path uses: a resumed run draws the same as one that was never stopped."""
    torch.manual_seed(sample_seed(seed, step, rank))


def _command_to_resume(run: Run) -> str:
    processes = run.accelerator.num_processes
    launcher = f"torchrun --nproc-per-node {processes}" if processes > 1 else shlex.quote(sys.executable)
    return f"{launcher} -m fcmae.pretrain --config {shlex.quote(str(run.folder / CONFIG))}"

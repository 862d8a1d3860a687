"""The training loop: all steps of a run, and what is written along the way. What is trained, a task says."""

import contextlib
import logging
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from fcmae.data.draws import sample_seed
from fcmae.data.workers import batches_of
from fcmae.errors import StoreError
from fcmae.runs.layout import CONFIG
from fcmae.runs.metrics import MetricsLog
from fcmae.runs.state import TrainState
from fcmae.training.console import TrainingProgress, signals_as_question
from fcmae.training.graphs import make_step
from fcmae.training.optimizer import make_schedule
from fcmae.training.prefetch import Prefetch
from fcmae.training.run import Inputs, Run
from fcmae.training.saving import checkpoint_bytes, non_finite
from fcmae.training.saving import save as _save
from fcmae.training.step import Step
from fcmae.training.stores import TogetherOrNone
from fcmae.training.trackers import Trackers
from fcmae.training.waiting import SlowData, advice, cores_of_a_process

logger = logging.getLogger("fcmae")


class Fitted(NamedTuple):
    """Where training ended."""

    steps: int
    """Optimizer steps done, those before a resume included."""
    loss: float | None
    """The last one logged: the mean over the steps since the one before. None: none was logged since the resume."""
    is_complete: bool
    """False after a signal that stopped it early."""


def fit(run: Run[Any]) -> Fitted:
    """Train from ``run.start`` to the end, or until a signal, and write the files of the run folder."""
    config, task, accelerator = run.config, run.task, run.accelerator
    step = run.start.step
    losses: list[torch.Tensor] = []  # not logged yet, on the device: reading them at each step would stall a GPU
    pending = list(run.start.pending_losses)
    last_loss: float | None = None
    slow_data = SlowData()

    run.model.train()
    with contextlib.ExitStack() as stack:
        stack.callback(run.peers.close)
        if run.lock is not None:
            stack.callback(run.lock.release)
        schedule = make_schedule(run.optimizer, config.train, run.total_steps)
        train_step = make_step(run)
        bar = TrainingProgress(
            run.total_steps, step, run.batch.accumulation_steps, accelerator.is_main_process, checkpoint_bytes(run)
        )
        # the trackers first: they end last, when Ctrl-C has its usual meaning again
        trackers = stack.enter_context(_trackers(run)) if accelerator.is_main_process else None
        interrupted = stack.enter_context(signals_as_question(accelerator, bar))
        metrics = stack.enter_context(MetricsLog(run.folder, step, trackers)) if run.writes else None
        stack.enter_context(bar)
        loaded = stack.enter_context(batches_of(task.loader(run))) if step < run.total_steps else iter(())
        if trackers and step < run.total_steps:
            trackers.start()  # after the loading processes: a forked process should not begin amid others' imports
        prefetched = Prefetch(loaded, task.inputs, accelerator.device)
        batches = TogetherOrNone(prefetched, accelerator, task.is_far)
        if step > 0 and run.resumed_settings is None:
            with bar.saving():
                _save(run, run.start)  # in a folder without a checkpoint: from here on it can be resumed by itself
        else:
            task.begin(run, metrics)
        window_start, window_steps = time.perf_counter(), 0

        while step < run.total_steps:
            schedule.step_update(step)
            _seed_step(config.seed, step, accelerator.process_index)
            try:
                losses.append(_train_step(train_step, batches, bar.update))
            except StoreError:
                if batches.is_agreed and step > run.start.step:
                    pending += _read_losses(run, losses, step) if losses else []
                    _save_before_the_end(run, replace(run.start, step=step, pending_losses=pending), metrics)
                raise
            task.after_update(run)
            step, window_steps = step + 1, window_steps + 1

            stop = interrupted()
            log_now = step % config.log.every == 0 or step == run.total_steps
            save_now = stop or step == run.total_steps or run.completes_epochs(step, config.log.checkpoint_every)
            if log_now or save_now:
                more = task.values(run)
                pending += _read_losses(run, losses, step)
                losses = []
            if log_now:
                elapsed, waited = time.perf_counter() - window_start, _longest(run, prefetched.wait.take())
                last_loss = sum(pending) / len(pending)
                values = {
                    "step": step,
                    "epoch": round(run.epochs_done(step), 4),
                    "loss": last_loss,
                    "lr": max(float(group["lr"]) for group in run.optimizer.param_groups),  # of the last layer
                    "images_per_second": round(window_steps * run.start.effective_batch / elapsed, 2),
                    "data_wait": round(waited / elapsed, 4),
                    **more,
                }
                if metrics:
                    metrics.write(values)
                bar.show(values)
                if (share := slow_data.share(waited, elapsed)) is not None:
                    logger.info("%s", advice(share, config.data, cores_of_a_process()))
                pending, window_start, window_steps = [], time.perf_counter(), 0
            if save_now:
                if metrics:
                    metrics.sync()
                with bar.saving():
                    _save(run, replace(run.start, step=step, pending_losses=pending))
            try:
                task.after_step(run, step, metrics)
            except StoreError:
                if not save_now:
                    pending += _read_losses(run, losses, step) if losses else []
                    _save_before_the_end(run, replace(run.start, step=step, pending_losses=pending), metrics)
                raise
            if stop:
                if trackers:
                    trackers.hurry()
                break
        run.peers.part()

    task.end(run)
    if step < run.total_steps:
        logger.info("stopped at step %d of %d; saved. To resume: %s", step, run.total_steps, _command_to_resume(run))
    else:
        for line in task.closing_lines(run, last_loss):
            logger.info("%s", line)
    return Fitted(step, last_loss, is_complete=step == run.total_steps)


def _trackers(run: Run[Any]) -> Trackers:
    return Trackers(run.config.log.trackers, run.config.log.project, run.folder, run.config.as_dict())


def _save_before_the_end(run: Run[Any], state: TrainState, metrics: MetricsLog | None) -> None:
    """A checkpoint of a run that ends because its images cannot be fetched. All processes must call it."""
    if metrics:
        metrics.sync()
    _save(run, state)
    run.peers.part()  # the one that says why may take longer to end than the others
    logger.info("saved at step %d; to resume: %s", state.step, _command_to_resume(run))


def _train_step(step: Step, batches: Iterator[Inputs], done: Callable[[], None]) -> torch.Tensor:
    """One optimizer step. Returns this process's loss, averaged over its micro-batches."""
    return step(batches, done)


def _read_losses(run: Run[Any], losses: list[torch.Tensor], step: int) -> list[float]:
    """Losses of the steps up to ``step``, averaged over processes; NonFiniteError if one is not finite."""
    means = run.accelerator.reduce(torch.stack(losses), reduction="mean").tolist()
    for behind, loss in enumerate(reversed(means)):
        if not math.isfinite(loss) and all(map(math.isfinite, means[: len(means) - 1 - behind])):
            raise non_finite(run, f"the loss is {loss} at step {step - behind}")
    return means


def _longest(run: Run[Any], seconds: float) -> float:
    """The largest of all processes: the others wait for it."""
    if run.accelerator.num_processes == 1:
        return seconds
    return float(run.accelerator.gather(torch.tensor([seconds], device=run.accelerator.device)).max())


def _seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch's generator, which drop path uses: a resumed run draws the same as one that was never stopped."""
    torch.manual_seed(sample_seed(seed, step, rank))


def _command_to_resume(run: Run[Any]) -> str:
    processes = run.accelerator.num_processes
    nodes = int(os.environ.get("GROUP_WORLD_SIZE", "1"))
    meet = f"--rdzv-backend c10d --rdzv-endpoint {os.environ.get('MASTER_ADDR', 'HOST')}:29500"
    several = f"--nnodes {nodes} {meet} " * (nodes > 1)  # without a place to meet, torchrun would wait for ever
    each = f"torchrun {several}--nproc-per-node {processes // nodes}"
    launcher = each if processes > 1 else shlex.quote(sys.executable)
    return f"{launcher} -m fcmae.{run.task.command} --config {shlex.quote(str(run.folder / CONFIG))}"

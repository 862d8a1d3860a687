"""``python -m fcmae.pretrain``: FCMAE pretraining, in the order in which it happens: main → set_up → fit.

The same file serves one process and many (``accelerate launch`` or ``torchrun``), on CPUs and GPUs.
"""

import contextlib
import hashlib
import logging
import math
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from filelock import FileLock
from tqdm.contrib.logging import logging_redirect_tqdm

import fcmae
from fcmae import checkpoint as ckpt
from fcmae.cli import parse_config
from fcmae.command import exit_status
from fcmae.config import PretrainConfig
from fcmae.console import progress_bar, signals_as_question
from fcmae.data import (
    PretrainDataset,
    Sample,
    SampleStream,
    UnreadableFiles,
    embedded_photographs,
    image_files,
    make_loader,
    sample_seed,
)
from fcmae.errors import UserError
from fcmae.metrics import MetricsLog
from fcmae.models import FCMAE
from fcmae.models.patches import enlarge_mask
from fcmae.monitor import GROUP, Monitor
from fcmae.optim import make_optimizer, make_schedule
from fcmae.pictures import reconstruction_picture, save_picture
from fcmae.resume import (
    CONFIG,
    HEADER,
    check_same_run,
    check_same_stream,
    checkpoint_to_resume,
    make_and_lock,
    run_folder,
)
from fcmae.sparse import BackendError
from fcmae.weights.load import load_encoder

logger = logging.getLogger("fcmae")

PICTURES = "reconstructions"


class NonFiniteError(UserError):
    """Training came to a loss or a weight that is not a number."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, also after an interruption that was saved; 1 after an error."""
    return exit_status("fcmae.pretrain", lambda: pretrain(parse_config(sys.argv[1:] if argv is None else argv)))


def pretrain(config: PretrainConfig) -> Path:
    """Pretrain as configured; returns the run folder.

    Raises:
        UserError: something the user can mend: a missing folder, no readable image, a run folder that is taken.
        NonFiniteError: the loss became NaN or infinite; the last good checkpoint is kept.
    """
    try:
        run = set_up(config)
        fit(run)
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        # accelerate keeps device and precision for the life of the process; a second run may want others
        AcceleratorState._reset_state(reset_partial_state=True)
    return run.folder


@dataclass
class Run:
    """Everything that training needs, made once."""

    config: PretrainConfig
    accelerator: Accelerator
    folder: Path
    dataset: PretrainDataset
    model: torch.nn.Module
    """As accelerate prepared it; ``bare_model`` is the FCMAE inside."""
    bare_model: FCMAE
    optimizer: torch.optim.Optimizer
    start: ckpt.TrainState
    total_steps: int
    monitor: Monitor
    lock: FileLock | None
    """Held by the main process as long as it writes to the folder."""

    def epochs_done(self, step: int) -> float:
        """Epochs done after so many steps."""
        return step * self.start.effective_batch / self.start.samples_per_epoch

    def completes_epochs(self, step: int, every: int) -> bool:
        """Whether the step just done completed another ``every`` epochs; 0: never."""
        if not every:
            return False
        samples, batch = every * self.start.samples_per_epoch, self.start.effective_batch
        return step * batch // samples > (step - 1) * batch // samples


def set_up(config: PretrainConfig) -> Run:
    """Check what can be checked, then make the data, the model and the optimiser, and load the checkpoint to resume."""
    # accelerate looks for torchrun's CPU processes only if told that there is nothing better
    accelerator = Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision=_precision(config))
    if not accelerator.is_main_process:
        logger.setLevel(logging.ERROR)
    folder = run_folder(config, accelerator)
    resume_from = checkpoint_to_resume(config, folder)
    newest = ckpt.last_checkpoint(folder)

    paths = embedded_photographs() if config.data.path is None else image_files(config.data.path, leave_out=folder)
    dataset = PretrainDataset(paths, config.data, config.model, config.train.mask_ratio, config.seed)
    dataset.check_readable()
    monitor = Monitor(config, dataset)
    num_patches = math.prod(config.model.grid_hw)
    if dataset.num_visible == num_patches:
        raise UserError(
            f"--model.img_size {config.model.img_size} gives {num_patches} patches of "
            f"{config.model.patch_size}×{config.model.patch_size} pixels, and --train.mask_ratio "
            f"{config.train.mask_ratio} masks none of them; use larger images or a smaller --model.stem_stride"
        )

    effective_batch = config.train.batch_size * config.train.accumulation_steps * accelerator.num_processes
    total_steps = math.ceil(config.train.epochs * len(dataset) / effective_batch)

    torch.manual_seed(config.seed)
    try:
        bare_model = FCMAE(config.model, config.train.mask_ratio)
    except BackendError as error:  # not installed
        raise UserError(f"--model.{error}") from None
    if missing := bare_model.encoder.backend.missing_on(accelerator.device):
        raise UserError(f"--model.backend {config.model.backend} needs {missing}; take grid")
    if config.model.init_from is not None and resume_from is None:
        try:
            load_encoder(bare_model, config.model.init_from)
        except UserError as error:
            raise UserError(f"--model.init_from: {error}") from None
    optimizer = make_optimizer(bare_model, config.train, effective_batch)
    start = ckpt.TrainState(
        step=0,
        effective_batch=effective_batch,
        samples_per_epoch=len(dataset),
        images_digest=hashlib.sha256("\n".join(path.name for path in paths).encode()).hexdigest(),
    )
    if resume_from is not None:
        check_same_run(config, resume_from)
        check_same_stream(ckpt.read_state(resume_from), start, config, accelerator.num_processes)
    if config.train.compile:
        bare_model.compile()
    model, optimizer = accelerator.prepare(bare_model, optimizer)
    if resume_from is not None:
        state = ckpt.load_checkpoint(resume_from, bare_model, optimizer)
        start = replace(start, step=state.step, pending_losses=state.pending_losses)
        if start.step >= total_steps and ckpt.last_checkpoint(folder) is None:
            raise UserError(
                f"{resume_from} is at step {start.step}, and --train.epochs {config.train.epochs} end at step "
                f"{total_steps}: nothing is left to train; give more epochs"
            )
    if effective_batch > len(dataset):
        logger.warning(
            "a step takes %d samples (--train.batch_size × --train.accumulation_steps × processes), more than the %d "
            "of an epoch: %d steps in all; a smaller batch makes more of them",
            effective_batch, len(dataset), total_steps,
        )  # fmt: skip

    lock = None
    if accelerator.is_main_process:
        lock = make_and_lock(folder)
        if ckpt.last_checkpoint(folder) != newest:  # between our reading of it and the lock
            raise UserError(f"--output {folder} got a checkpoint of another process just now; run again to go on")
        resolved = replace(
            config,
            output=str(folder.resolve()),
            data=replace(config.data, path=_absolute(config.data.path)),
            model=replace(config.model, init_from=_absolute(config.model.init_from)),
            monitor=config.monitor.resolved(),
            resume="auto",
        )
        header = f"{HEADER} {fcmae.__version__}, torch {torch.__version__}, {accelerator.num_processes} process(es)\n"
        ckpt.write_atomically(folder / CONFIG, header + yaml.safe_dump(resolved.as_dict(), sort_keys=False))
    logger.info(
        "%s on %s: %d images, %d steps of %d (%g epochs), %d of %d patches visible → %s",
        config.model.name, _device_name(accelerator), len(paths), total_steps, effective_batch, config.train.epochs,
        dataset.num_visible, num_patches, folder,
    )  # fmt: skip
    if resume_from is not None:
        logger.info("going on from %s, step %d of %d", resume_from, start.step, total_steps)
    return Run(config, accelerator, folder, dataset, model, bare_model, optimizer, start, total_steps, monitor, lock)


def fit(run: Run) -> None:
    """Train from ``run.start`` to the end, or until a signal; write what a run folder holds."""
    config, train, accelerator = run.config, run.config.train, run.accelerator
    schedule = make_schedule(run.optimizer, train, run.total_steps)
    stream = SampleStream(
        run.start.samples_per_epoch, batch_size=train.batch_size, accumulation_steps=train.accumulation_steps,
        rank=accelerator.process_index, world_size=accelerator.num_processes,
        seed=config.seed, start_step=run.start.step, total_steps=run.total_steps,
    )  # fmt: skip
    loader = make_loader(run.dataset, stream, pin_memory=accelerator.device.type == "cuda")
    unreadable = UnreadableFiles()
    step = run.start.step
    losses: list[torch.Tensor] = []  # of steps not yet logged, on the device: reading them each step would stall a GPU
    pending = list(run.start.pending_losses)

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
                values = {
                    "step": step,
                    "epoch": round(run.epochs_done(step), 4),
                    "loss": sum(pending) / len(pending),
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
        del batches  # ends the workers

    if unreadable.seen:
        logger.warning("%d image file(s) could not be read and were skipped; each is named above", len(unreadable.seen))
    if step < run.total_steps:
        logger.info("stopped at step %d of %d; saved. To go on: %s", step, run.total_steps, _command_to_go_on(run))
    else:
        logger.info("done: %d steps. Pictures and weights are in %s", step, run.folder)
        logger.info('weights for timm: fcmae.convert_to_dense("%s")', run.folder)


def _train_step(run: Run, batches: Iterator[Sample], unreadable: UnreadableFiles) -> torch.Tensor:
    """One optimiser step; returns this process's loss, averaged over its micro-batches."""
    accumulate, device = run.config.train.accumulation_steps, run.accelerator.device
    total = torch.zeros((), device=device)
    for micro_batch in range(accumulate):
        batch = next(batches)
        unreadable.note(batch.unreadable)
        images = run.dataset.normalise(batch.image.to(device, non_blocking=True))
        visible = batch.visible.to(device, non_blocking=True)
        is_last = micro_batch == accumulate - 1
        # gradients are summed over processes once a step, with the last micro-batch
        with contextlib.nullcontext() if is_last else run.accelerator.no_sync(run.model):
            output = run.model(images, visible=visible, num_visible=run.dataset.num_visible, masked_only=True)
            loss = output.loss / accumulate
            run.accelerator.backward(loss)
        total += loss.detach()
    if run.config.train.clip_grad is not None:
        run.accelerator.clip_grad_norm_(run.model.parameters(), run.config.train.clip_grad)
    run.optimizer.step()
    run.optimizer.zero_grad()
    return total


def _read_losses(run: Run, losses: list[torch.Tensor], step: int) -> list[float]:
    """Losses of the steps up to ``step``, averaged over processes, as numbers; NonFiniteError if one is not."""
    means = run.accelerator.reduce(torch.stack(losses), reduction="mean").tolist()
    for behind, loss in enumerate(reversed(means)):
        if not math.isfinite(loss) and all(map(math.isfinite, means[: len(means) - 1 - behind])):
            raise _non_finite(run, f"the loss is {loss} at step {step - behind}")
    return means


def _save(run: Run, state: ckpt.TrainState) -> None:
    """A checkpoint, unless a weight is not finite (the loss of the next step would say so, too late for this one)."""
    bad = next((n for n, p in run.bare_model.named_parameters() if not p.isfinite().all()), None)
    if bad is not None:
        raise _non_finite(run, f"the weight {bad} is not finite after step {state.step}")
    if run.accelerator.is_main_process:
        try:
            ckpt.save_checkpoint(run.folder, run.bare_model, _network(run.config), run.optimizer, state)
        except OSError as error:
            raise UserError(
                f"no checkpoint could be written to {run.folder} at step {state.step}: {error.strerror or error}; "
                f"earlier ones are as they were"
            ) from error
        ckpt.delete_old_checkpoints(run.folder, run.config.log.keep_checkpoints)
    run.accelerator.wait_for_everyone()


def _network(config: PretrainConfig) -> dict[str, Any]:
    """The fields of ModelConfig, which a checkpoint's header holds."""
    return {name: value for name, value in config.as_dict()["model"].items() if name != "init_from"}


def _draw(run: Run, step: int) -> None:
    """RUN/reconstructions/step-….png of fixed images with fixed masks."""
    if run.accelerator.is_main_process:
        model, dataset = run.bare_model, run.dataset
        sample = dataset.fixed_samples(run.config.log.pictures_count)
        images = dataset.normalise(sample.image.to(run.accelerator.device))
        model.eval()
        with torch.no_grad(), run.accelerator.autocast():
            output = FCMAE.forward(model, images, sample.visible.to(images.device))
        model.train()
        masked, pasted = model.reconstruct(images, output)
        where = enlarge_mask(output.visible, run.config.model.patch_size)
        original, masked, pasted = (dataset.denormalise(x.float()) for x in (images, masked, pasted))
        picture = reconstruction_picture(original, masked, pasted, where, run.config.train.mask_ratio)
        save_picture(picture, run.folder / PICTURES / f"step-{step:08d}.png")
    run.accelerator.wait_for_everyone()


def _measure(run: Run, step: int, metrics: MetricsLog | None) -> None:
    """A line of what the features are worth, if that is wanted."""
    if not run.config.monitor.every:
        return
    if metrics:
        try:
            measured = run.monitor.measure(run.bare_model, run.accelerator.device)
        except (UserError, OSError) as error:
            if step == 0:
                raise
            logger.warning("not measured at step %d: %s", step, error)  # no reason to end the training
        else:
            metrics.write({"step": step, "epoch": round(run.epochs_done(step), 4)} | measured, GROUP)
            logger.info("step %d: %s", step, ", ".join(f"{name} {value:.4f}" for name, value in measured.items()))
    run.accelerator.wait_for_everyone()


def _seed_step(seed: int, step: int, rank: int) -> None:
    """Drop path draws from torch's generator: the same draws whether or not the run was stopped before this step."""
    torch.manual_seed(sample_seed(seed, step, rank))


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).resolve())


def _precision(config: PretrainConfig) -> str:
    wanted = config.train.precision
    if wanted == "auto":
        wanted = (
            "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
        )
    return {"fp32": "no", "bf16": "bf16"}[wanted]


def _device_name(accelerator: Accelerator) -> str:
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return name if accelerator.num_processes == 1 else f"{accelerator.num_processes} × {name}"


def _non_finite(run: Run, what: str) -> NonFiniteError:
    kept = ckpt.last_checkpoint(run.folder)
    kept_line = f"the last good checkpoint is kept: {kept}" if kept else "no checkpoint had been written yet"
    go_on = f"--resume {shlex.quote(str(kept))} --output ANOTHER and " if kept else ""
    return NonFiniteError(f"{what}; stopped, {kept_line}. Try {go_on}a lower --train.base_lr, or --train.clip_grad 1")


def _command_to_go_on(run: Run) -> str:
    processes = run.accelerator.num_processes
    launcher = f"torchrun --nproc-per-node {processes}" if processes > 1 else shlex.quote(sys.executable)
    return f"{launcher} -m fcmae.pretrain --config {shlex.quote(str(run.folder / CONFIG))}"


if __name__ == "__main__":
    sys.exit(main())

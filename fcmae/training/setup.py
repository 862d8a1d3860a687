"""Set-up of a pretraining run: all checks, then everything that training needs."""

import hashlib
import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator
from filelock import FileLock

import fcmae
from fcmae.config import PretrainConfig
from fcmae.data.folder import embedded_photographs, image_files
from fcmae.data.samples import PretrainDataset
from fcmae.errors import UserError
from fcmae.files import write_text
from fcmae.models import FCMAE
from fcmae.runs import checkpoint as ckpt
from fcmae.runs.layout import CONFIG, HEADER
from fcmae.sparse import BackendError
from fcmae.training.batch import Batch, divide_batch, learning_rate_advice, peak_learning_rate
from fcmae.training.fitting import largest_micro_batch
from fcmae.training.monitor import Monitor
from fcmae.training.optimizer import make_optimizer
from fcmae.training.pixels import measured_pixels, recorded_pixels
from fcmae.training.resume import (
    check_same_run,
    check_same_stream,
    checkpoint_to_resume,
    make_and_lock,
    recorded_settings,
    resumed_warmup,
    run_folder,
)
from fcmae.weights.load import load_encoder

logger = logging.getLogger(__name__)


@dataclass
class Run:
    """Everything that training needs."""

    config: PretrainConfig
    """As config.yaml holds it: what was unset is filled in."""
    batch: Batch
    accelerator: Accelerator
    folder: Path
    dataset: PretrainDataset
    model: torch.nn.Module
    """Prepared by accelerate; ``bare_model`` is the FCMAE inside."""
    bare_model: FCMAE
    optimizer: torch.optim.Optimizer
    start: ckpt.TrainState
    total_steps: int
    monitor: Monitor
    lock: FileLock | None
    """Held by the main process while it writes to the folder."""

    def epochs_done(self, step: int) -> float:
        """Epochs completed after this many steps."""
        return step * self.start.effective_batch / self.start.samples_per_epoch

    def completes_epochs(self, step: int, every: int) -> bool:
        """Whether this step completed another ``every`` epochs; 0: never."""
        if not every:
            return False
        samples, batch = every * self.start.samples_per_epoch, self.start.effective_batch
        return step * batch // samples > (step - 1) * batch // samples


def set_up(config: PretrainConfig) -> Run:
    """Check everything, then create data, model and optimizer, and load the checkpoint to resume.

    Raises:
        UserError: something the user can fix. Nothing has been written to the run folder then.
    """
    # accelerate finds torchrun's CPU processes only with cpu=True
    accelerator = Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision=_precision(config))
    if not accelerator.is_main_process:
        logging.getLogger("fcmae").setLevel(logging.ERROR)
    folder = run_folder(config, accelerator)
    resume_from = checkpoint_to_resume(config, folder)
    newest = ckpt.last_checkpoint(folder)

    before = {} if resume_from is None else recorded_settings(resume_from)
    config = recorded_pixels(config, before)
    dataset = _make_dataset(config, folder)
    if resume_from is None:
        config = measured_pixels(config, dataset.paths)
        dataset.use(config.data)
    monitor = Monitor(config, dataset)
    bare_model = _make_model(config, accelerator.device, fresh=resume_from is None)
    if resume_from is not None:
        check_same_run(config, resume_from, before)
    batch = divide_batch(
        config.train, accelerator.num_processes, recorded=before.get("train.batch_size"),
        largest=lambda: largest_micro_batch(bare_model, dataset.num_visible, accelerator),
    )  # fmt: skip
    config = _filled_in(config, batch, resumed_warmup(config, before))
    total_steps = math.ceil(config.train.epochs * len(dataset) / batch.effective)
    start = ckpt.TrainState(
        step=0,
        effective_batch=batch.effective,
        samples_per_epoch=len(dataset),
        images_digest=hashlib.sha256("\n".join(path.name for path in dataset.paths).encode()).hexdigest(),
    )
    optimizer = make_optimizer(bare_model, config.train, batch.effective)
    if resume_from is not None:
        check_same_stream(ckpt.read_state(resume_from), start, batch)
    if config.train.compile:
        bare_model.compile()
    model, optimizer = accelerator.prepare(bare_model, optimizer)
    if resume_from is not None:
        state = ckpt.load_checkpoint(resume_from, bare_model, optimizer)
        start = replace(start, step=state.step, pending_losses=state.pending_losses)
        if start.step >= total_steps and newest is None:
            raise UserError(
                f"{resume_from} is at step {start.step}, and --train.epochs {config.train.epochs} ends at step "
                f"{total_steps}: nothing is left to train; give more epochs"
            )
    if batch.effective > len(dataset):
        logger.warning(
            "a step takes %d samples (%s), more than the %d of an epoch: %d steps in total; "
            "a smaller --train.effective_batch gives more steps",
            batch.effective, batch, len(dataset), total_steps,
        )  # fmt: skip
    if resume_from is None and (advice := learning_rate_advice(config.train, batch.effective)):
        logger.warning("%s", advice)

    lock = None
    if accelerator.is_main_process:
        lock = make_and_lock(folder)
        if ckpt.last_checkpoint(folder) != newest:  # written after we looked and before we had the lock
            raise UserError(f"another process just wrote a checkpoint to --output {folder}; run again to resume")
        _write_settings(config, folder, accelerator.num_processes)
    logger.info(
        "%s on %s: %d images, %d steps of %d (%g epochs), peak learning rate %.3g, %d of %d patches visible → %s",
        config.model.name, _device_name(accelerator), len(dataset.paths), total_steps, batch.effective,
        config.train.epochs, peak_learning_rate(config.train, batch.effective),
        dataset.num_visible, math.prod(config.model.grid_hw), folder,
    )  # fmt: skip
    if config.train.effective_batch is not None:
        logger.info("%d images per step: %s", batch.effective, batch)
    if resume_from is not None:
        logger.info("resuming from %s, step %d of %d", resume_from, start.step, total_steps)
    return Run(
        config, batch, accelerator, folder, dataset, model, bare_model, optimizer, start, total_steps, monitor, lock
    )


def _filled_in(config: PretrainConfig, batch: Batch, warmup_epochs: float) -> PretrainConfig:
    """The settings that config.yaml records: what was unset has its value.

    Where effective_batch determines accumulation_steps, that stays unset: the run can then be resumed on any number of
    processes.
    """
    train = replace(config.train, batch_size=batch.size, warmup_epochs=warmup_epochs)
    if train.effective_batch is None:
        train = replace(train, accumulation_steps=batch.accumulation_steps)
    return replace(config, train=train)


def _make_dataset(config: PretrainConfig, folder: Path) -> PretrainDataset:
    """The training images; at least one can be read."""
    paths = embedded_photographs() if config.data.path is None else image_files(config.data.path, leave_out=folder)
    dataset = PretrainDataset(paths, config.data, config.model, config.train.mask_ratio, config.seed)
    dataset.check_readable()
    num_patches = math.prod(config.model.grid_hw)
    if dataset.num_visible == num_patches:
        raise UserError(
            f"--model.img_size {config.model.img_size} gives {num_patches} patches of "
            f"{config.model.patch_size}×{config.model.patch_size} pixels, and --train.mask_ratio "
            f"{config.train.mask_ratio} masks none of them; use larger images or a smaller --model.stem_stride"
        )
    return dataset


def _make_model(config: PretrainConfig, device: torch.device, fresh: bool) -> FCMAE:
    """The network with its initial weights; with ``fresh`` False they are not loaded, because a checkpoint follows."""
    torch.manual_seed(config.seed)
    try:
        model = FCMAE(config.model, config.train.mask_ratio)
    except BackendError as error:  # not installed
        raise UserError(f"--model.{error}") from None
    if missing := model.encoder.ops.missing_on(device):
        raise UserError(f"--model.backend {config.model.backend} needs {missing}; take auto or torch")
    if config.model.init_from is not None and fresh:
        try:
            load_encoder(model, config.model.init_from, bands=config.data.bands)
        except UserError as error:
            raise UserError(f"--model.init_from: {error}") from None
    return model


def _write_settings(config: PretrainConfig, folder: Path, num_processes: int) -> None:
    """Write RUN/config.yaml, which resumes the run from any working directory."""
    resolved = replace(config, output=str(folder), resume="auto").with_absolute_paths()
    header = f"{HEADER} {fcmae.__version__}, torch {torch.__version__}, {num_processes} process(es)\n"
    write_text(folder / CONFIG, header + yaml.safe_dump(resolved.as_dict(), sort_keys=False))


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

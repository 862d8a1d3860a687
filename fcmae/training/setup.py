"""Set-up of a pretraining run: all checks, then everything that training needs."""

import logging
import math
from dataclasses import replace

import torch

from fcmae.config import PretrainConfig
from fcmae.data.folder import training_images
from fcmae.data.holdout import hold_out
from fcmae.data.samples import PretrainDataset
from fcmae.data.sources.digest import digest
from fcmae.data.sources.image_set import ImageSet
from fcmae.errors import UserError
from fcmae.models import FCMAE
from fcmae.runs import checkpoint as ckpt
from fcmae.sparse.backends.registry import BackendError, resolve_backend
from fcmae.training.accelerator import captures, device_name, prepare
from fcmae.training.batch import divide_batch, learning_rate_advice, peak_learning_rate
from fcmae.training.beginning import Beginning, beginning, check_same_everywhere
from fcmae.training.choosing import chosen
from fcmae.training.fitting import largest_micro_batch
from fcmae.training.monitor import Monitor
from fcmae.training.optimizer import make_optimizer
from fcmae.training.peers import Peers
from fcmae.training.pixels import measured_pixels, recorded_pixels
from fcmae.training.pretraining import Pretraining, PretrainRun
from fcmae.training.resume import check_same_run, check_same_stream, filled_in, log_if_moved
from fcmae.training.run import Run
from fcmae.training.sharding import is_sharded, shard
from fcmae.weights.load import load_encoder
from fcmae.wording import counted

logger = logging.getLogger(__name__)


def set_up(config: PretrainConfig) -> PretrainRun:
    """Check everything, then create data, model and optimizer, and load the checkpoint to resume.

    Raises:
        UserError: something the user can fix. Nothing has been written to the run folder then.
    """
    with beginning(config) as (begun, peers):
        return _set_up(config, begun, peers)


def _set_up(config: PretrainConfig, begun: Beginning, peers: Peers) -> PretrainRun:
    accelerator, folder, resume_from, before = begun.accelerator, begun.folder, begun.resume_from, begun.before
    images, held_out = hold_out(
        training_images(config.data.path, folder, config.data.access), config.monitor.holdout, config.seed
    )
    config = chosen(config, len(images), accelerator.num_processes, None if resume_from is None else before)
    config = recorded_pixels(config, before)
    dataset = _make_dataset(config, images)
    if resume_from is None:
        config = measured_pixels(config, dataset.paths)
        dataset.use(config.data)
    monitor = Monitor(config, dataset, _held_out_dataset(config, held_out) if held_out else None)
    is_divided = is_sharded(config, accelerator)
    bare_model = _make_model(config, accelerator.device, fresh=resume_from is None)
    if resume_from is not None:
        check_same_run(config, resume_from, before)
    batch = divide_batch(
        config.train, accelerator.num_processes, recorded=before.get("train.batch_size"),
        largest=lambda: largest_micro_batch(bare_model, dataset.num_visible, accelerator),
    )  # fmt: skip
    config = replace(config, train=filled_in(config.train, batch, before))
    total_steps = math.ceil(config.train.epochs * len(dataset) / batch.effective)
    start = ckpt.TrainState(
        step=0,
        effective_batch=batch.effective,
        samples_per_epoch=len(dataset),
        images_digest=digest(images),
        settings=config.as_dict(),
    )
    check_same_everywhere(start.images_digest, accelerator)
    if is_divided:
        shard(bare_model, accelerator)
    optimizer: torch.optim.Optimizer = make_optimizer(bare_model, config.train, batch.effective)
    if resume_from is not None:
        check_same_stream(ckpt.read_state(resume_from), start, batch, images)
    if config.train.compile and not is_divided:
        bare_model.compile()
    model, optimizer = prepare(accelerator, bare_model, optimizer, is_divided or captures(config.train, accelerator))
    if resume_from is not None:
        state = ckpt.load_checkpoint(resume_from, bare_model, optimizer, is_sharded=is_divided)
        start = replace(start, step=state.step, pending_losses=state.pending_losses)
        log_if_moved(folder)
        begun.check_left(start.step, total_steps, config.train.epochs)
    if batch.effective > len(dataset):
        logger.warning(
            "a step takes %d samples (%s), more than the %d of an epoch: %s in total; "
            "a smaller --train.effective_batch gives more steps",
            batch.effective, batch, len(dataset), counted(total_steps, "step"),
        )  # fmt: skip
    if resume_from is None and (advice := learning_rate_advice(config.train, batch.effective)):
        logger.warning("%s", advice)

    lock = begun.take_folder(config, batch, start.step, total_steps, is_divided)
    logger.info(
        "%s on %s: %s, %s of %d (%s), peak learning rate %.3g, %d of %d patches visible → %s",
        config.model.name, device_name(accelerator), _kind_of_images(config, images, held_out),
        counted(total_steps, "step"), batch.effective, counted(config.train.epochs, "epoch"),
        peak_learning_rate(config.train, batch.effective), dataset.num_visible, math.prod(config.model.grid_hw), folder,
    )  # fmt: skip
    if config.train.effective_batch is not None:
        logger.info("%s per step: %s", counted(batch.effective, "image"), batch)
    if resume_from is not None:
        logger.info("resuming from %s, step %d of %d", resume_from, start.step, total_steps)
    return Run(
        config, Pretraining(dataset, monitor), batch, accelerator, folder, model, bare_model, optimizer, start,
        total_steps, lock, peers, begun.resumed_settings, is_divided,
    )  # fmt: skip


def _kind_of_images(config: PretrainConfig, images: ImageSet, held_out: ImageSet) -> str:
    kind = counted(len(images), "bundled photo" if config.data.path is None else "image")
    return f"{kind} and {len(held_out)} held out" if held_out else kind


def _held_out_dataset(config: PretrainConfig, images: ImageSet) -> PretrainDataset:
    try:
        return _make_dataset(config, images)
    except UserError as error:
        raise UserError(
            f"--monitor.holdout {config.monitor.holdout:g} holds out no image that can be read: {error}"
        ) from None


def _make_dataset(config: PretrainConfig, images: ImageSet) -> PretrainDataset:
    """Samples of images, of which at least one can be read."""
    dataset = PretrainDataset(images, config.data, config.model, config.train.mask_ratio, config.seed)
    dataset.check_readable()
    num_patches = math.prod(config.model.grid_hw)
    if dataset.num_visible == num_patches:
        raise UserError(
            f"--model.img_size {config.model.img_size} gives {counted(num_patches, 'patch', 'patches')} of "
            f"{config.model.patch_size}×{config.model.patch_size} pixels, and --train.mask_ratio "
            f"{config.train.mask_ratio} masks none of them; use larger images or a smaller --model.stem_stride"
        )
    return dataset


def _make_model(config: PretrainConfig, device: torch.device, fresh: bool) -> FCMAE:
    """The network with its initial weights; with ``fresh`` False they are not loaded, because a checkpoint follows."""
    torch.manual_seed(config.seed)
    try:
        model = FCMAE(config.model, config.train.mask_ratio)  # on the CPU
        ops = resolve_backend(config.model.sparse_backend, device)
    except BackendError as error:  # not installed, or of other devices
        raise UserError(f"--model.{error}") from None
    if missing := ops.missing_on(device):
        raise UserError(f"--model.backend {config.model.backend} needs {missing}; take auto or torch")
    if config.model.init_from is not None and fresh:
        try:
            load_encoder(model, config.model.init_from, use_ema=config.model.use_ema, bands=config.data.bands)
        except UserError as error:
            raise UserError(f"--model.init_from: {error}") from None
    return model

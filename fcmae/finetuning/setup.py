"""Set-up of a fine-tuning run: all checks, then everything that training needs."""

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from fcmae.config.pixels import READING
from fcmae.data.crop_share import crop_share
from fcmae.data.normalizer import Normalizer
from fcmae.data.pixel_reading import PixelReading
from fcmae.data.sources.digest import digest
from fcmae.errors import UserError
from fcmae.finetuning.augmentation import CHANNELS
from fcmae.finetuning.average import make_average
from fcmae.finetuning.classes import check_same_classes, write_classes
from fcmae.finetuning.config import FinetuneConfig
from fcmae.finetuning.labeled_images import LabeledSet
from fcmae.finetuning.labels import labeled_set
from fcmae.finetuning.layer_decay import param_groups
from fcmae.finetuning.network import DENSE, backend_for, build, described, freeze, starting_weights
from fcmae.finetuning.samples import CenterCrops, Collate, LabeledSamples
from fcmae.finetuning.targets import Targets
from fcmae.finetuning.task import FinetuneRun, Finetuning
from fcmae.models import ModelConfig
from fcmae.runs import checkpoint as ckpt
from fcmae.runs.find import AVERAGE
from fcmae.training.accelerator import captures, device_name, precision_name, prepare
from fcmae.training.batch import Batch, divide_batch, learning_rate_advice, peak_learning_rate
from fcmae.training.beginning import Beginning, beginning, check_same_everywhere
from fcmae.training.fitting import largest_batch
from fcmae.training.peers import Peers
from fcmae.training.pixels import measured_pixels, recorded_pixels
from fcmae.training.resume import check_same_run, check_same_stream, filled_in, log_if_moved
from fcmae.training.run import Run
from fcmae.weights.read import read_weights
from fcmae.weights.settings import stated_pixels
from fcmae.weights.weights import Weights
from fcmae.wording import counted

logger = logging.getLogger("fcmae")

PER_CHANNEL = ("mean", "std", "bands", "value_range")  # what weights state of their own channels only
OF_PRETRAINING = "train.mask_ratio"  # a setting that only runs of pretraining have


def set_up(config: FinetuneConfig) -> FinetuneRun:
    """Check everything, then create data, model and optimizer, and load the checkpoint to resume.

    Raises:
        UserError: something the user can fix. Nothing has been written to the run folder then.
    """
    with beginning(config) as (begun, peers):
        return _set_up(config, begun, peers)


def _set_up(config: FinetuneConfig, begun: Beginning, peers: Peers) -> FinetuneRun:
    accelerator, folder, resume_from, before = begun.accelerator, begun.folder, begun.resume_from, begun.before
    if OF_PRETRAINING in before:
        raise UserError(f"{resume_from} is a checkpoint of pretraining; fine-tune it as WEIGHTS, into another --output")

    data = labeled_set(config.data.of_labels, config.seed)
    if resume_from is not None:
        check_same_classes(resume_from.parent.parent, data.classes, data.is_multi_label, f"{data.flag} {data.name}")
    weights = starting_weights(config) if resume_from is None else read_weights(resume_from)
    network = described(weights, config.model)
    config = resolved(config, network, before, weights if resume_from is None else None, data)
    reading, normalize = _pixels(config, network)
    if resume_from is None:
        data.check_readable(reading, network.image_hw)
    else:
        check_same_run(config, resume_from, before)

    backend = backend_for(config.model, weights, config.train, accelerator.device, precision_name(accelerator))
    if backend == DENSE and config.model.checkpoint_activations and captures(config.train, accelerator):
        # timm's checkpoints read the state of the random numbers, which a capture forbids
        config = replace(config, train=replace(config.train, cuda_graphs=False))
        logger.info("--model.checkpoint_activations: the training step is not captured as a CUDA graph")
    bare_model = build(weights, network, config.model, data.classes, normalize, config.seed, backend)
    bare_model.to(accelerator.device).to(memory_format=torch.channels_last)
    freeze(bare_model, config.train.frozen_stages)
    make_loss = partial(_loss_of_zeros, bare_model, network, accelerator.device)
    batch = divide_batch(
        config.train, accelerator.num_processes, recorded=before.get("train.batch_size"),
        largest=lambda: largest_batch(bare_model, make_loss, accelerator, copies=int(config.train.ema > 0)),
    )  # fmt: skip
    _check_mixing(config, batch)
    # here, because wrong settings of augmentation are to be refused before anything is written
    samples = LabeledSamples(data.train, config.data, config.augment, network.image_hw, reading, normalize, config.seed)
    collate = Collate(Targets(config.augment, len(data.classes), data.is_multi_label))
    config = replace(config, train=filled_in(config.train, batch, before))
    total_steps = math.ceil(config.train.epochs * len(data.train) / batch.effective)
    images = data.train.as_files()
    start = ckpt.TrainState(
        step=0, effective_batch=batch.effective, samples_per_epoch=len(data.train), images_digest=digest(images),
        settings=config.as_dict(),
    )  # fmt: skip
    check_same_everywhere(start.images_digest, accelerator)

    optimizer: torch.optim.Optimizer = make_optimizer(bare_model, network, config, batch.effective)
    if resume_from is not None:
        check_same_stream(ckpt.read_state(resume_from), start, batch, images)
    ema = make_average(bare_model, config.train.ema, total_steps)
    if config.train.compile:
        bare_model.compile()
    model, optimizer = prepare(accelerator, bare_model, optimizer, captures(config.train, accelerator))
    if resume_from is not None:
        has_average = (resume_from / AVERAGE).is_file()
        average = ema.module if ema is not None and has_average else None
        state = ckpt.load_checkpoint(resume_from, bare_model, optimizer, average)
        if ema is not None and not has_average:
            ema.set(bare_model)
        start = replace(start, step=state.step, pending_losses=state.pending_losses)
        log_if_moved(folder)
        begun.check_left(start.step, total_steps, config.train.epochs)
    elif advice := learning_rate_advice(config.train, batch.effective):
        logger.warning("%s", advice)

    lock = begun.take_folder(config, batch, start.step, total_steps)
    if lock is not None:
        write_classes(folder, data.classes, data.is_multi_label)
    logger.info(
        "%s from %s on %s: %s of %s to train on, %s to validate on, %s of %d (%s), peak "
        "learning rate %.3g → %s",
        network.name, weights.origin, device_name(accelerator), counted(len(data.train), "image"),
        counted(len(data.classes), "class", "classes"), f"{len(data.val):,}", counted(total_steps, "step"),
        batch.effective, counted(config.train.epochs, "epoch"),
        peak_learning_rate(config.train, batch.effective), folder,
    )  # fmt: skip
    if data.is_multi_label:
        logger.info(
            "images to train on with several labels (a;b, a|b or a list): %s. Each class is learned apart from the "
            "others, by binary cross-entropy",
            f"{int((data.train.labels.sum(1) > 1).sum()):,}",
        )  # fmt: skip
    if resume_from is not None:
        logger.info("resuming from %s, step %d of %d", resume_from, start.step, total_steps)
    crops = CenterCrops(
        data.val, network.image_hw, crop_share(config.data.crop_pct, network.image_hw), reading, normalize
    )
    if (why := samples.why_not_augmented()) is not None:
        logger.warning("--augment.rand_augment is left out: it takes 8-bit images of the range 0,255, but %s", why)
    task = Finetuning(data, samples, collate, crops, network, ema)
    return Run(
        config, task, batch, accelerator, folder, model, bare_model, optimizer, start, total_steps, lock, peers,
        begun.resumed_settings,
    )  # fmt: skip


def _loss_of_zeros(
    model: torch.nn.Module, network: ModelConfig, device: torch.device, images: int
) -> Callable[[], torch.Tensor]:
    x_BCHW = torch.zeros(images, network.in_chans, *network.image_hw, device=device)
    return lambda: model(x_BCHW.contiguous(memory_format=torch.channels_last)).float().logsumexp(1).mean()


def make_optimizer(
    model: torch.nn.Module, network: ModelConfig, config: FinetuneConfig, effective_batch: int
) -> torch.optim.AdamW:
    """AdamW at the peak learning rate, with a group for every layer and kind of parameter."""
    train = config.train
    groups = param_groups(model, network.size.depths, train.weight_decay, train.layer_decay, train.layer_decay_by)
    return torch.optim.AdamW(groups, lr=peak_learning_rate(train, effective_batch), betas=train.betas, fused=True)


def resolved(
    config: FinetuneConfig, network: ModelConfig, before: dict[str, Any], weights: Weights | None, data: LabeledSet
) -> FinetuneConfig:
    """The settings with what was unset: of the checkpoint to resume, of the weights, or measured on the images."""
    size = network.image_hw[0] if network.image_hw[0] == network.image_hw[1] else network.image_hw
    model = replace(
        config.model, name=network.name, img_size=size, in_chans=network.in_chans, stem_stride=network.stride,
        use_grn=network.with_grn,
    )  # fmt: skip
    config = recorded_pixels(replace(config, model=model), before)
    if weights is None:
        recorded = {name: before.get(f"data.{name}") for name in (*READING, "crop_pct")}
        return _with_unset(config, {n: tuple(v) if isinstance(v, list) else v for n, v in recorded.items()})
    try:
        stated = stated_pixels(weights.origin) | weights.stated
        if network.image_hw != weights.config.image_hw:
            stated.pop("crop_pct", None)  # it is of the weights' own size
        if network.in_chans != weights.config.in_chans:
            stated = {name: value for name, value in stated.items() if name not in PER_CHANNEL}
        config = _with_unset(config, stated)
        config.data.reading(network.in_chans)
        config.data.normalizer(network.in_chans)
    except ValueError as error:
        raise UserError(f"--data.{error}") from None
    return config if data.train.files is None else measured_pixels(config, data.train.files)


OPEN = {"stack": "auto", "slices": "axial", "level": 0}
"""Values of settings that are as good as unset."""


def _with_unset(config: FinetuneConfig, pixels: dict[str, Any]) -> FinetuneConfig:
    """The settings with those of ``pixels`` that are unset; an ``auto`` of mean and std asks for a measurement."""
    images = config.data
    unset = {name for name in pixels if getattr(images, name) in (None, OPEN.get(name))}
    return replace(config, data=replace(images, **{name: pixels[name] for name in unset if pixels[name] is not None}))


def _pixels(config: FinetuneConfig, network: ModelConfig) -> tuple[PixelReading, Normalizer]:
    try:
        return config.data.reading(network.in_chans), config.data.normalizer(network.in_chans)
    except ValueError as error:
        raise UserError(f"--data.{error}") from None


def _check_mixing(config: FinetuneConfig, batch: Batch) -> None:
    if config.augment.mixes and batch.size % 2:
        raise UserError(
            f"--augment.mixup and --augment.cutmix need an even --train.batch_size, got {batch.size}; change it, or "
            f"set both to 0"
        )
    if config.augment.rand_augment is not None and config.model.in_chans not in CHANNELS:
        logger.warning("--augment.rand_augment is left out: it takes images of 1 or 3 channels")

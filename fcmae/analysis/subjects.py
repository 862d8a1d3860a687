"""Networks to analyze, given by path or timm name, and the input format of each."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import timm
import torch
from torch import nn

from fcmae.analysis.names import Named, check_is_of_timm
from fcmae.config.pixels import PixelConfig
from fcmae.data.normalizer import Normalizer, Pixels
from fcmae.data.pixel_reading import PixelReading
from fcmae.errors import UserError
from fcmae.models import FCMAE
from fcmae.models.fcmae import count_visible
from fcmae.weights.dense import create_dense
from fcmae.weights.load import load_model
from fcmae.weights.settings import pixel_reading
from fcmae.weights.settings import pixels as stated_pixels

logger = logging.getLogger(__name__)

IMG_SIZE = 224


@dataclass(frozen=True)
class Subject:
    """A network in eval mode, and its input format."""

    model: nn.Module
    reading: PixelReading
    normalize: Normalizer
    image_hw: tuple[int, int]
    has_random_weights: bool = False

    @property
    def in_chans(self) -> int:
        """Channels of its images."""
        return self.reading.in_chans

    @property
    def visible_share(self) -> float:
        """Exact share of visible patches; it differs from 1 − mask_ratio because the number of patches is rounded."""
        if not isinstance(self.model, FCMAE):
            return 1.0
        patches = math.prod(side // self.model.encoder.patch_size for side in self.image_hw)
        return count_visible(patches, self.model.mask_ratio) / patches


@dataclass(frozen=True)
class LoadOptions:
    """How to load networks."""

    sparse: bool = False
    """Load a checkpoint as the sparse FCMAE that was trained; otherwise as timm's dense network."""
    pretrained: bool = False
    """Load timm's pretrained weights into timm networks (downloads them); otherwise random weights."""
    allow_pickle: bool = False
    """As for :func:`fcmae.create_dense`."""
    use_ema: bool = True
    """As for :func:`fcmae.create_dense`."""
    img_size: int | None = None
    """Side of the images. None: the run's own, a timm network's own if that is fixed, otherwise 224 (for a checkpoint:
    56 times its stem's stride, isotropic 14 times)."""
    seed: int = 0
    """Seed of random weights."""
    pixels: PixelConfig = field(default_factory=PixelConfig)
    """How images are read, in place of what the weights say."""


DEFAULTS = LoadOptions()


def load_subject(named: Named, options: LoadOptions = DEFAULTS, device: torch.device | str = "cpu") -> Subject:
    """Load the network that the user named, on a device.

    Raises:
        UserError: weights that cannot be read or downloaded.
    """
    subject = _of_checkpoint(named.source, options) if named.is_path else _of_timm(named.source, options)
    subject.model.to(device).eval()
    read = options.pixels.over(Pixels(subject.normalize, subject.reading))
    subject = replace(subject, normalize=read.normalize, reading=read.reading)
    return subject if options.img_size is None else replace(subject, image_hw=(options.img_size, options.img_size))


def _of_checkpoint(source: str, options: LoadOptions) -> Subject:
    if options.sparse:
        fcmae = load_model(source, allow_pickle=options.allow_pickle, use_ema=options.use_ema)
        chans = fcmae.config.in_chans
        normalize, reading = stated_pixels(source, chans)
        return Subject(fcmae, reading, normalize, fcmae.config.image_hw)
    dense = create_dense(source, allow_pickle=options.allow_pickle, use_ema=options.use_ema)
    subject = _as_configured(dense)
    return replace(subject, reading=pixel_reading(source, subject.in_chans))


def _of_timm(name: str, options: LoadOptions) -> Subject:
    check_is_of_timm(name)
    try:
        defaults = timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:  # a tag after the dot that it does not have
        raise UserError(f"timm has no weights of the name {name}: {error}") from None
    fixed = defaults is not None and defaults.fixed_input_size
    kwargs = {"img_size": options.img_size} if fixed and options.img_size is not None else {}
    try:
        with seeded(options.seed):
            model = timm.create_model(name, pretrained=options.pretrained, num_classes=0, **kwargs)
    except Exception as error:  # downloading and reading weights can raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"timm cannot create {name}{' with weights' if options.pretrained else ''}: {reason}"
        ) from error
    if options.pretrained:
        config = model.pretrained_cfg
        logger.info("%s: weights %s, license %s", name, config.get("tag"), config.get("license") or "not stated")
    subject = replace(_as_configured(model), has_random_weights=not options.pretrained)
    return subject if fixed else replace(subject, image_hw=(IMG_SIZE, IMG_SIZE))


def _as_configured(model: Any) -> Subject:
    """A timm network with the input format from its ``pretrained_cfg``."""
    config = model.pretrained_cfg
    chans, height, width = config["input_size"]
    return Subject(model, PixelReading(chans), Normalizer(tuple(config["mean"]), tuple(config["std"])), (height, width))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator for the block; afterwards it continues as before."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def refusals_named(name: str, images: str, image_hw: tuple[int, int]) -> Iterator[None]:
    """Turn errors that a network raises on unsupported images into a UserError that names the network."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    except (RuntimeError, AssertionError, ValueError) as error:  # image too small, unsupported size, out of memory
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{name} cannot take {images} of {image_hw[0]}×{image_hw[1]} pixels: {reason}; "
            f"try another --img_size or --batch_size"
        ) from error

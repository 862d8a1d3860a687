"""The settings of pretraining as frozen dataclasses; their docstrings are the ``--help`` of ``fcmae pretrain``."""

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from fcmae.data.normalizer import Normalizer
from fcmae.models.config import ModelConfig

DIGITS = "digits"  # scikit-learn's, where a folder of labeled images could stand
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class PretrainModelConfig(ModelConfig):
    """The network, and where its first weights are from."""

    init_from: str | None = None
    """Weights to start from instead of fresh ones: a run folder, a checkpoint folder or a file, of fcmae, timm,
    transformers, mmpretrain or the official code. A resumed run does not read it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init_from == "":
            raise ValueError("init_from is empty; give a file or a folder, or leave it out for fresh weights")


@dataclass(frozen=True)
class DataConfig:
    """The images and how they are cropped."""

    path: str | None = None
    """Folder of images, nested or flat, labeled or not. Unset: the photographs bundled with scikit-image and
    scikit-learn."""
    num_workers: int = 4
    """Processes that read images, per training process; 0 reads in the training process. Does not change results."""
    repeat: int = 1
    """Crops taken of each image in an epoch."""
    cache: bool = False
    """Keep decoded images in memory; for sets that fit, once per worker. JPEGs are then decoded at full size, where
    otherwise a crop that is far larger than img_size is decoded at half its size or less: the same but for rounding."""
    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Smallest and largest share of the image's area that a random crop covers."""
    crop_ratio: tuple[float, float] = (0.75, 1.3333333333333333)
    """Narrowest and widest aspect ratio (width / height) of a random crop."""
    hflip: float = 0.5
    """Probability of a horizontal flip."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel, pixel values in 0 … 1. Unset: ImageNet's (for other than 3 channels their average)."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each channel; unset: as for the mean."""

    def __post_init__(self) -> None:
        _check_finite(self)
        check_least(self, num_workers=0, repeat=1)
        _check_range(self.crop_scale, "crop_scale", 1.0)
        _check_range(self.crop_ratio, "crop_ratio", float("inf"))
        if not 0 <= self.hflip <= 1:
            raise ValueError(f"hflip must be in [0, 1], got {self.hflip}")
        if self.path == "":
            raise ValueError("path is empty; give a folder of images")
        if self.mean is not None and not all(0 <= mean <= 1 for mean in self.mean):
            raise ValueError(f"mean must be in [0, 1], the range of pixel values, got {self.mean}")
        if self.std is not None and not all(std > 0 for std in self.std):
            raise ValueError(f"std must be above 0, got {self.std}")

    def normalizer(self, in_chans: int) -> Normalizer:
        """With values for each of ``in_chans`` channels; ValueError if others were given than as many."""

        def per_channel(given: tuple[float, ...] | None, imagenet: tuple[float, ...], what: str) -> tuple[float, ...]:
            if given is None:
                return imagenet if in_chans == 3 else (sum(imagenet) / 3,) * in_chans
            if len(given) != in_chans:
                raise ValueError(f"{what} must have one value per channel: model.in_chans is {in_chans}, got {given}")
            return given

        return Normalizer(per_channel(self.mean, IMAGENET_MEAN, "mean"), per_channel(self.std, IMAGENET_STD, "std"))


@dataclass(frozen=True)
class TrainConfig:
    """The optimization. Defaults are the paper's (table 8) but for the batch size, which is what one device holds."""

    epochs: int = 800
    """Passes over the images."""
    batch_size: int = 64
    """Images per device and micro-batch. The effective batch is this × accumulation_steps × number of devices."""
    accumulation_steps: int = 1
    """Micro-batches per optimizer step."""
    mask_ratio: float = 0.6
    """Share of the patches that is masked."""
    base_lr: float = 1.5e-4
    """Learning rate for an effective batch of 256; the rate used is base_lr × effective batch / 256."""
    warmup_epochs: float = 40
    """Epochs of linear warm-up, before a cosine to min_lr."""
    min_lr: float = 0.0
    """Learning rate at the end."""
    weight_decay: float = 0.05
    """AdamW's decay of kernels; biases, norms, GRN, LayerScale and the mask token have none."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's β₁ and β₂."""
    clip_grad: float | None = None
    """Largest norm of the gradient; unset: no clipping."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 autocast or float32; auto: bf16 on GPUs that have it, float32 elsewhere."""
    compile: bool = False
    """Compile the network with torch.compile; needs a C++ compiler on a CPU."""

    def __post_init__(self) -> None:
        _check_finite(self)
        check_least(self, epochs=1, batch_size=1, accumulation_steps=1, warmup_epochs=0, min_lr=0, weight_decay=0)
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio must be between 0 and 1, got {self.mask_ratio}")
        if self.base_lr <= 0:
            raise ValueError(f"base_lr must be above 0, got {self.base_lr}")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs must be less than train.epochs ({self.epochs}), got {self.warmup_epochs:g}"
            )
        if self.clip_grad is not None and self.clip_grad <= 0:
            raise ValueError(f"clip_grad must be above 0 or unset, got {self.clip_grad}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be in [0, 1), got {self.betas}")


@dataclass(frozen=True)
class LogConfig:
    """What a run writes, and how often."""

    every: int = 10
    """Steps between lines of metrics.jsonl and TensorBoard points; a line's loss is the mean over these steps."""
    pictures_every: int = 20
    """Epochs between reconstruction pictures; 0: none."""
    pictures_count: int = 8
    """Images in a picture."""
    checkpoint_every: int = 1
    """Epochs between checkpoints; there is one at the end in any case."""
    keep_checkpoints: int = 3
    """Newest checkpoints to keep, older ones are deleted; 0: keep all."""

    def __post_init__(self) -> None:
        check_least(self, every=1, pictures_every=0, pictures_count=1, checkpoint_every=1, keep_checkpoints=0)


@dataclass(frozen=True)
class MonitorConfig:
    """What is measured of the features while training goes on; changes no number of the training."""

    every: int = 0
    """Epochs between measurements of the encoder, before the first step and after the last one too; 0: none. Each gives
    a line of metrics.jsonl with the mean cosine distance of the channels in each stage (near 0: collapsed)."""
    data: str | None = None
    """Folder with a subfolder for each class (or train/ and val/ that have them), or the word digits for those of
    scikit-learn; adds the accuracy of 20 nearest neighbors. Unset: no accuracy."""
    images: int = 256
    """Images at most: of the training images for the distance, and of either part of the labeled ones."""

    def __post_init__(self) -> None:
        check_least(self, every=0, images=1)
        if self.data == "":
            raise ValueError("data is empty; give a folder of classes, or digits")


@dataclass(frozen=True)
class PretrainConfig:
    """The run."""

    model: PretrainModelConfig = field(default_factory=PretrainModelConfig, metadata={"bare": "name"})
    data: DataConfig = field(default_factory=DataConfig, metadata={"bare": "path"})
    train: TrainConfig = field(default_factory=TrainConfig)
    log: LogConfig = field(default_factory=LogConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    output: str | None = None
    """Run folder, made if needed; unset: runs/<model>-<date>-<time>. A folder with a run in it is resumed or
    left alone."""
    seed: int = 0
    """Seed of the weights, crops, flips, masks and order; together with the configuration it fixes the run."""
    resume: str = "auto"
    """auto: go on from the newest checkpoint in the run folder, if any; none: never; or a run or checkpoint folder."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.output == "":
            raise ValueError("output is empty; give a folder, or leave it out for runs/<model>-<date>-<time>")
        if self.resume == "":
            raise ValueError("resume is empty; it takes auto, none or a path")
        try:
            self.data.normalizer(self.model.in_chans)
        except ValueError as error:
            raise ValueError(f"data.{error}") from None

    def with_absolute_paths(self) -> "PretrainConfig":
        """The same, wherever it is read."""
        return replace(
            self,
            output=_absolute(self.output),
            data=replace(self.data, path=_absolute(self.data.path)),
            model=replace(self.model, init_from=_absolute(self.model.init_from)),
            monitor=replace(self.monitor, data=DIGITS if self.monitor.data == DIGITS else _absolute(self.monitor.data)),
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data, tuples as lists, as config.yaml holds it."""
        return _plain(asdict(self))


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).resolve())


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _check_finite(config: DataConfig | TrainConfig) -> None:
    """NaN passes every comparison, so it has its own."""
    for name, value in vars(config).items():
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"{name} must be finite, got {value}")


def check_least(config: object, **lowest: float) -> None:
    """ValueError for a field that is set and less than its lowest value."""
    for name, least in lowest.items():
        value = getattr(config, name)
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def check_seed(seed: int) -> None:
    """ValueError for a seed that torch's generators do not take."""
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed must be at least 0 and less than 2⁶³, got {seed}")


def _check_range(pair: tuple[float, float], name: str, highest: float) -> None:
    low, high = pair
    if not 0 < low <= high <= highest:
        raise ValueError(f"{name} must be 0 < low ≤ high{'' if highest > 1 else ' ≤ 1'}, got {low:g}, {high:g}")

"""The settings of pretraining as frozen dataclasses; their docstrings are the ``--help`` of ``fcmae pretrain``."""

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fcmae.data.pixel_reading import MAX_PIXELS, PixelReading, Stack, check_bands, check_value_range
from fcmae.models.config import ModelConfig

if TYPE_CHECKING:
    from fcmae.data.normalizer import Normalizer  # it needs torch, which takes seconds to import

DIGITS = "digits"  # scikit-learn's digits, in place of a folder of labeled images
BASE_BATCH = 256  # train.base_lr is the learning rate for this batch
BATCH_SIZE = 64  # images per device and micro-batch, when nothing says otherwise
WARMUP_SHARE = 0.05  # of the epochs: the paper's 40 of 800
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class PretrainModelConfig(ModelConfig):
    """The network and its initial weights."""

    init_from: str | None = None
    """Weights to start from instead of random ones: a run folder, a checkpoint folder, or a file of fcmae, timm,
    transformers, mmpretrain or the official code. Ignored when a run is resumed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init_from == "":
            raise ValueError("init_from is empty; give a file or a folder, or leave it out for random weights")


@dataclass(frozen=True)
class DataConfig:
    """The images and how they are cropped."""

    path: tuple[str, ...] | str | None = None
    """Images: a folder, nested or flat, labeled or not; a glob in quotes; a .txt, .csv or .tsv list of paths; or
    several of these, as a,b. Unset: the photos that ship with scikit-image and scikit-learn."""
    num_workers: int = 4
    """Data loading processes per training process; 0 loads in the training process. Does not change results."""
    repeat: int = 1
    """Crops per image and epoch."""
    cache: bool = False
    """Keep decoded images in memory, one copy per data loading process. For data sets that fit. JPEGs are then decoded
    at full size; without the cache, a crop far larger than img_size is decoded at half its size or less. Crops are
    equal up to rounding."""
    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Minimum and maximum fraction of the image area that a random crop covers."""
    crop_ratio: tuple[float, float] = (0.75, 1.3333333333333333)
    """Minimum and maximum aspect ratio (width / height) of a random crop."""
    hflip: float = 0.5
    """Probability of a horizontal flip."""
    vflip: float = 0.0
    """Probability of a vertical flip, for images without an upright."""
    rotate90: bool = False
    """Rotate each crop by 0, 90, 180 or 270 degrees, for images without an upright. Needs a square img_size."""
    bands: tuple[int, ...] | None = None
    """Channels of the files to use, in this order, counted from 1: 4,3,2. Unset: the files must have as many as
    model.in_chans."""
    value_range: tuple[float, ...] | None = None
    """Values that become 0 and 1: low,high of all channels, or low,high of each in turn. Values beyond are clipped.
    Unset: measured from a sample of the images, written to config.yaml; 8-bit images keep 0,255."""
    nodata: float | None = None
    """Value of pixels without data. They get the mean, and patches mostly of them are not scored. NaN and the
    GDAL_NODATA tag of a TIFF always count."""
    stack: Stack = "auto"
    """The pages of a TIFF: channels of one image, or images, one of which is drawn per crop. auto: channels if they are
    as many as model.in_chans, else images if the pages, or the C axis of an OME-TIFF, have as many channels."""
    max_pixels: int = MAX_PIXELS
    """Largest image to decode, in pixels of up to 4 bytes; of tiled TIFFs and .npy files, the largest crop. Larger ones
    are skipped as unreadable."""
    mean: tuple[float, ...] | Literal["auto"] | None = None
    """Mean of each channel, for pixel values in 0 … 1; auto: measured from a sample of the images. Unset: ImageNet's
    for 8-bit images (averaged, for other than 3 channels), auto for others."""
    std: tuple[float, ...] | Literal["auto"] | None = None
    """Standard deviation of each channel, or auto. Unset: as for the mean."""

    def __post_init__(self) -> None:
        _check_finite(self)
        check_least(self, num_workers=0, repeat=1, max_pixels=1)
        _check_range(self.crop_scale, "crop_scale", 1.0)
        _check_range(self.crop_ratio, "crop_ratio", float("inf"))
        for name in ("hflip", "vflip"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        check_bands(self.bands)
        check_value_range(self.value_range)
        if self.path in ("", ()) or (isinstance(self.path, tuple) and "" in self.path):
            raise ValueError("path is empty; give a folder of images")
        if isinstance(self.mean, tuple) and not all(0 <= mean <= 1 for mean in self.mean):
            raise ValueError(f"mean must be in [0, 1], the range of pixel values, got {self.mean}")
        if isinstance(self.std, tuple) and not all(std > 0 for std in self.std):
            raise ValueError(f"std must be above 0, got {self.std}")

    def reading(self, in_chans: int) -> PixelReading:
        """How files are read as ``in_chans`` channels.

        Raises:
            ValueError: bands or value_range of another number of channels.
        """
        return PixelReading(in_chans, self.bands, self.value_range, self.nodata, self.stack, self.max_pixels)

    def normalizer(self, in_chans: int) -> "Normalizer":
        """The normalizer for ``in_chans`` channels; ImageNet's in place of what is to be measured.

        Raises:
            ValueError: mean or std has another number of values.
        """

        def per_channel(
            given: tuple[float, ...] | Literal["auto"] | None, imagenet: tuple[float, ...], what: str
        ) -> tuple[float, ...]:
            if given is None or given == "auto":
                return imagenet if in_chans == 3 else (sum(imagenet) / 3,) * in_chans
            if len(given) != in_chans:
                raise ValueError(f"{what} must have one value per channel: model.in_chans is {in_chans}, got {given}")
            return given

        from fcmae.data.normalizer import Normalizer

        return Normalizer(per_channel(self.mean, IMAGENET_MEAN, "mean"), per_channel(self.std, IMAGENET_STD, "std"))


@dataclass(frozen=True)
class TrainConfig:
    """The optimization. Defaults are the paper's (table 8), except for the batch size, which fits one device."""

    epochs: int = 800
    """Passes over the images."""
    effective_batch: int | None = None
    """Images per optimizer step, over all devices. Sets accumulation_steps, and batch_size too if that is unset. Unset:
    batch_size × accumulation_steps × number of devices."""
    batch_size: int | None = None
    """Images per device and micro-batch. Unset: 64, or with effective_batch as many as fit in memory."""
    accumulation_steps: int | None = None
    """Micro-batches per optimizer step. Unset: 1, or with effective_batch as many as it takes."""
    mask_ratio: float = 0.6
    """Fraction of the patches to mask."""
    base_lr: float | None = None
    """Learning rate for an effective batch of 256. The peak learning rate is base_lr × effective batch / 256. Unset:
    the paper's 1.5e-4, or more for a batch below 2560, so that the peak is 1.5e-3."""
    warmup_epochs: float | None = None
    """Epochs of linear warm-up, followed by cosine decay to min_lr. Unset: 5% of the epochs (40 of 800)."""
    min_lr: float = 0.0
    """Learning rate at the end."""
    weight_decay: float = 0.05
    """AdamW's weight decay. Applies to kernels only, not to biases, norms, GRN, LayerScale or the mask token."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's β₁ and β₂."""
    clip_grad: float | None = None
    """Maximum gradient norm; unset: no clipping."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 autocast or float32. auto: bf16 on GPUs that support it, float32 elsewhere."""
    compile: bool = False
    """Compile the network with torch.compile. Needs a C++ compiler on a CPU."""
    cuda_graphs: bool = True
    """On CUDA, capture a training step once as CUDA graphs and replay it, so that kernels do not wait for the CPU. One
    that cannot be captured runs without, and a line says so. Without effect on other devices."""

    def __post_init__(self) -> None:
        _check_finite(self)
        check_least(self, epochs=1, effective_batch=1, batch_size=1, accumulation_steps=1)
        check_least(self, warmup_epochs=0, min_lr=0, weight_decay=0)
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio must be between 0 and 1, got {self.mask_ratio}")
        if self.base_lr is not None and self.base_lr <= 0:
            raise ValueError(f"base_lr must be above 0 or unset, got {self.base_lr}")
        if self.warmup >= self.epochs:
            raise ValueError(
                f"warmup_epochs must be less than train.epochs ({self.epochs}), got {self.warmup_epochs:g}; "
                f"left out, it is 5% of them"
            )
        if self.clip_grad is not None and self.clip_grad <= 0:
            raise ValueError(f"clip_grad must be above 0 or unset, got {self.clip_grad}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be in [0, 1), got {self.betas}")

    @property
    def warmup(self) -> float:
        """Epochs of warm-up: ``warmup_epochs``, or the paper's 5% of the epochs."""
        return WARMUP_SHARE * self.epochs if self.warmup_epochs is None else self.warmup_epochs


@dataclass(frozen=True)
class LogConfig:
    """What a run writes and how often."""

    every: int = 10
    """Steps between lines of metrics.jsonl and points in TensorBoard. The loss is the mean over these steps."""
    pictures_every: int = 20
    """Epochs between pictures of reconstructions; 0: none."""
    pictures_count: int = 8
    """Images per picture."""
    checkpoint_every: int = 1
    """Epochs between checkpoints. The last step always writes one."""
    keep_checkpoints: int = 3
    """Number of newest checkpoints to keep; 0: all."""

    def __post_init__(self) -> None:
        check_least(self, every=1, pictures_every=0, pictures_count=1, checkpoint_every=1, keep_checkpoints=0)


@dataclass(frozen=True)
class MonitorConfig:
    """Measurements of the features during training. They do not change the training."""

    every: int = 0
    """Epochs between measurements of the encoder, also before the first step and after the last; 0: none. Each adds a
    line to metrics.jsonl with the mean cosine distance of the channels in each stage (near 0: collapsed)."""
    data: str | None = None
    """Folder with one subfolder per class (or train/ and val/ with such subfolders), or the word digits for
    scikit-learn's digits. Adds the accuracy of a 20-nearest-neighbor classifier. Unset: no accuracy."""
    images: int = 256
    """Maximum number of images: training images for the distance, labeled images in each of train and test, held-out
    images for their loss."""
    holdout: float = 0.0
    """Share of the images to hold out: they are never trained on, and their loss, with fixed center crops and masks, is
    measured every monitor.every epochs (every epoch, if that is 0). Chosen by a hash of name and seed, so that an image
    stays held out when others are added. Cannot change when a run is resumed."""

    def __post_init__(self) -> None:
        check_least(self, every=0, images=1)
        if not 0 <= self.holdout <= 0.5:
            raise ValueError(f"holdout must be from 0 to 0.5, such as 0.05, got {self.holdout}")
        if self.data == "":
            raise ValueError("data is empty; give a folder of classes, or digits")

    @property
    def holdout_every(self) -> int:
        """Epochs between measurements of the held-out loss; 0: none."""
        return (self.every or 1) if self.holdout else 0

    @property
    def any_every(self) -> int:
        """Epochs between any measurements; 0: none."""
        return self.every or self.holdout_every


@dataclass(frozen=True)
class PretrainConfig:
    """One run."""

    model: PretrainModelConfig = field(default_factory=PretrainModelConfig, metadata={"bare": "name"})
    data: DataConfig = field(default_factory=DataConfig, metadata={"bare": "path"})
    train: TrainConfig = field(default_factory=TrainConfig)
    log: LogConfig = field(default_factory=LogConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    output: str | None = None
    """Run folder, created if needed. Unset: runs/<model>-<date>-<time>. A run that is already there is resumed, or
    left untouched."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, …; auto: the accelerator if there is one. Several processes take one device each."""
    seed: int = 0
    """Seed of the weights, crops, flips, masks and order. Seed and configuration determine the run."""
    resume: str = "auto"
    """auto: resume from the newest checkpoint in the run folder, if any. none: never resume. Or a run or checkpoint
    folder to resume from."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.output == "":
            raise ValueError("output is empty; give a folder, or leave it out for runs/<model>-<date>-<time>")
        if self.resume == "":
            raise ValueError("resume is empty; it takes auto, none or a path")
        try:
            self.data.normalizer(self.model.in_chans)
            self.data.reading(self.model.in_chans)
        except ValueError as error:
            raise ValueError(f"data.{error}") from None
        if self.data.rotate90 and self.model.image_hw[0] != self.model.image_hw[1]:
            raise ValueError(f"data.rotate90 needs a square model.img_size, got {self.model.img_size}")

    def with_absolute_paths(self) -> "PretrainConfig":
        """The same configuration with absolute paths, valid from any working directory."""
        return replace(
            self,
            output=_absolute(self.output),
            data=replace(self.data, path=_all_absolute(self.data.path)),
            model=replace(self.model, init_from=_absolute(self.model.init_from)),
            monitor=replace(self.monitor, data=DIGITS if self.monitor.data == DIGITS else _absolute(self.monitor.data)),
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data with tuples as lists, as in config.yaml."""
        return _plain(asdict(self))


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).resolve())


def _all_absolute(paths: tuple[str, ...] | str | None) -> tuple[str, ...] | str | None:
    return tuple(str(Path(path).resolve()) for path in paths) if isinstance(paths, tuple) else _absolute(paths)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _check_finite(config: DataConfig | TrainConfig) -> None:
    """NaN passes every range check, so it needs one of its own."""
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

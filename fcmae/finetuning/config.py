"""The settings of fine-tuning as frozen dataclasses; their docstrings are the ``--help`` of ``fcmae finetune``."""

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from fcmae.cli.fields import WORD
from fcmae.config import OptimizationConfig, TrainingImagesConfig, check_least, check_seed
from fcmae.config.checks import check_finite
from fcmae.config.pretrain import absolute, all_absolute, plain
from fcmae.config.source import AccessConfig
from fcmae.config.watch import check_trackers
from fcmae.models.sizes import SIZES, check_stem_stride

SCRATCH = "scratch"
"""In place of weights: a network with random ones."""
PHOTOS = "photo-tiles"
"""In place of labeled images: tiles of the bundled photos."""
OF_LABELS = (
    *("path", "dataset", "train_split", "val_split", "download"),
    *("path_column", "label_column", "split_column", "val_share", "train_share"),
)
"""Settings of the images that choose them and their labels, besides those of the access."""
STAGES = 4
Freeze = Literal["head"] | int
DecayBy = Literal["layer", "three"]
FinetuneBackend = Literal["auto", "dense", "numba", "triton"]


@dataclass(frozen=True)
class FinetuneModelConfig:
    """The network."""

    name: str | None = None
    """The network to train from scratch, such as convnextv2_atto. Unset: that of WEIGHTS, or convnextv2_atto."""
    img_size: int | tuple[int, int] | None = None
    """Height and width of the images in pixels; one number for a square. Unset: that of WEIGHTS; from
    scratch 56 × stem_stride, isotropic 224."""
    in_chans: int | None = None
    """Channels of the images. Unset: those of WEIGHTS."""
    stem_stride: int | None = None
    """Kernel and stride of the stem of a network from scratch: 1, 2 or 4; isotropic: 4, 8, 16 or 32. Unset: that of
    WEIGHTS, or 4; isotropic 16."""
    use_grn: bool | None = None
    """false drops the weights' global response normalization, true adds it where they have none. Unset: as they are."""
    drop_path_rate: float = 0.1
    """Stochastic depth rate, increasing linearly to this value at the last block."""
    head_init_scale: float = 0.001
    """Factor of a new classifier's initial weights."""
    checkpoint_activations: bool = False
    """Recompute activations in the backward pass, which saves memory and costs time. The training step of the dense
    backend is then not captured as a CUDA graph."""
    backend: FinetuneBackend = "auto"
    """What computes the network: dense, timm's; numba (CPU) or triton (GPU), the kernels of pretraining, with every
    patch visible. auto: numba on a CPU in float32, else dense. It affects the speed, not the results."""

    def __post_init__(self) -> None:
        if self.name is not None and self.name not in SIZES:
            raise ValueError(f"name {self.name!r} is not known; choose one of {', '.join(SIZES)}")
        if self.stem_stride is not None:
            check_stem_stride(self.stem_stride, self.name)
        check_least(self, in_chans=1)
        for side in self.img_size if isinstance(self.img_size, tuple) else (self.img_size,):
            if side is not None and side < 1:
                raise ValueError(f"img_size must be at least 1, got {self.img_size}")
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate must be in [0, 1), got {self.drop_path_rate}")
        if not 0 < self.head_init_scale < float("inf"):
            raise ValueError(f"head_init_scale must be above 0, got {self.head_init_scale}")


@dataclass(frozen=True)
class FinetuneDataConfig(TrainingImagesConfig):
    """The labeled images, and how they are cropped. Settings of the pixels that are unset are those of WEIGHTS."""

    path: tuple[str, ...] | str | None = None
    """Labeled images: a folder with a subfolder for each class, or with train/ and val/ that have them; a glob in
    quotes of images in such folders; such a .tar or .zip, or WebDataset's shards with .cls files; a .csv, .tsv or
    .parquet table with columns for label and path, or image; any of these by URL, or several, as a,b, but not tables of
    paths; the folder of --data.dataset; or the word photo-tiles for tiles of the photos that ship with scikit-image and
    scikit-learn, labeled with their photo."""
    dataset: str | None = None
    """A dataset of timm.data.create_dataset in the folder data.path, such as torch/cifar10."""
    train_split: str = "train"
    """Split of data.dataset to train on."""
    val_split: str = "validation"
    """Split of data.dataset to validate on."""
    download: bool = False
    """Let data.dataset be downloaded."""
    path_column: str | None = None
    """Column of a table that holds the paths. Unset: path, file, image or the like, else the first that begins with the
    name of an image."""
    label_column: str | None = None
    """Column of a table that holds the labels. Unset: label, labels, class or the like. Several labels of an image are
    written a;b or a|b; they make all classes independent (binary cross-entropy, mean average precision)."""
    split_column: str | None = None
    """Column of a table that says train, or val. Unset: split, set, subset, fold or partition, if its values are such
    words."""
    val_share: float = 0.2
    """Share of each class to validate on, where nothing says which images that are. Drawn by seed."""
    train_share: float = 1.0
    """Share of each class's training images to train on, at least one image; where images have several, of all.
    Drawn by seed."""
    bands: tuple[int, ...] | None = None
    """Channels of the files to use, in this order, counted from 1: 4,3,2. Unset: as the weights say, else all."""
    value_range: tuple[float, ...] | None = None
    """Values that become 0 and 1: low,high of all channels, or low,high of each in turn. Values beyond are clipped.
    Unset: as the weights say, else measured from a sample of the images; 8-bit images keep 0,255."""
    nodata: float | None = None
    """Value of pixels without data, which get the mean. Unset: as the weights say; NaN, the GDAL_NODATA tag of a TIFF
    and the padding value of DICOM always count."""
    mean: tuple[float, ...] | Literal["auto"] | None = None
    """Mean of each channel, for pixel values in 0 … 1; auto: measured from a sample of the images. Unset: as the
    weights say, else ImageNet's for 8-bit images (averaged, for other than 3 channels), auto for others."""
    std: tuple[float, ...] | Literal["auto"] | None = None
    """Standard deviation of each channel, or auto. Unset: as for the mean."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Minimum and maximum fraction of the image area that a random crop covers."""
    crop_pct: float | None = None
    """Share of an image's shorter side that the center crop for validation covers. Unset: what timm states for its
    weights at their size, or 0.875, or 1 from 384 pixels on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dataset is not None and self.path is None:
            raise ValueError(f"dataset {self.dataset} needs --data.path, the folder that holds it")
        if self.dataset is not None and isinstance(self.path, tuple):
            raise ValueError(f"dataset {self.dataset} takes one folder as --data.path, not {','.join(self.path)}")
        if not 0 < self.val_share < 1:
            raise ValueError(f"val_share must be between 0 and 1, got {self.val_share}")
        if not 0 < self.train_share <= 1:
            raise ValueError(f"train_share must be above 0 and at most 1, got {self.train_share}")
        if self.crop_pct is not None and not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct must be above 0 and at most 1, got {self.crop_pct}")

    @property
    def of_labels(self) -> "FinetuneDataConfig":
        """What chooses the images and their labels; everything else, such as crops, as by default. Equal for settings
        that choose the same, so that they are listed once."""
        access = (one.name for one in fields(AccessConfig))
        return FinetuneDataConfig(**{name: getattr(self, name) for name in (*OF_LABELS, *access)})


@dataclass(frozen=True)
class AugmentConfig:
    """What is done to the images and labels of training, by timm's implementations."""

    rand_augment: str | None = None
    """RandAugment in timm's notation, such as rand-m9-mstd0.5-inc1. Of 8-bit gray or color images only, without a value
    range or with 0,255; others are left as they are, and a line says so."""
    random_erasing: float = 0.0
    """Probability that a rectangle of an image is replaced by noise."""
    mixup: float = 0.0
    """Mixup's α; 0: no mixup. Needs an even batch size, as does cutmix."""
    cutmix: float = 0.0
    """CutMix' α; 0: no CutMix. With both, each step draws one of them."""
    label_smoothing: float = 0.1
    """Share of a label that is spread over all classes; of several labels, how much closer to 0.5 each target is moved:
    with 0.1 to 0.05 and 0.95."""

    def __post_init__(self) -> None:
        check_finite(self)
        check_least(self, mixup=0, cutmix=0)
        for name in ("random_erasing", "label_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if self.rand_augment is not None and not self.rand_augment.startswith("rand"):
            raise ValueError(f"rand_augment must be such as rand-m9-mstd0.5-inc1, got {self.rand_augment!r}")

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed."""
        return self.mixup > 0 or self.cutmix > 0


@dataclass(frozen=True)
class FinetuneTrainConfig(OptimizationConfig):
    """The optimization. Defaults suit some hundred to some thousand labeled images."""

    linear_base_lr: ClassVar[float] = 0.0
    usual_peak: ClassVar[float] = 1e-3
    peaks: ClassVar[tuple[float, float]] = 5e-5, 5e-3  # the least and the most of the papers' recipes

    epochs: int = 50
    """Passes over the training images."""
    base_lr: float | None = None
    """Learning rate for an effective batch of 256. The peak learning rate is base_lr × effective batch / 256. Unset:
    what makes the peak 1e-3."""
    warmup_epochs: float | None = None
    """Epochs of linear warm-up, followed by cosine decay to min_lr. Unset: 5% of the epochs."""
    weight_decay: float = 0.05
    """AdamW's weight decay. Applies to kernels only, not to biases, norms, GRN or LayerScale."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's β₁ and β₂."""
    layer_decay: float = 0.9
    """Factor of the learning rate from a layer to the one before it; 1: the same for all."""
    layer_decay_by: DecayBy = "layer"
    """What counts as a layer: layer, every block; three, groups of three blocks as in the papers' large sizes."""
    ema: float = 0.0
    """Decay of the moving average of the weights (EMA) at each step, such as 0.9999; 0: no average. The average is
    validated and exported. In a short run the decay is lowered, so that the initial weights make up 1% at the end."""
    freeze: Freeze = 0
    """First stages that are not trained, 0 to 4, the stem with the first; 4, or the word head: only the classifier and
    the norm before it are trained."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must be above 0 and at most 1, got {self.layer_decay}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be in [0, 1), got {self.ema}")
        if isinstance(self.freeze, int) and not 0 <= self.freeze <= STAGES:
            raise ValueError(f"freeze must be 0 to {STAGES}, or head, got {self.freeze}")

    @property
    def frozen_stages(self) -> int:
        """How many stages are not trained, from the first on."""
        return STAGES if isinstance(self.freeze, str) else self.freeze


@dataclass(frozen=True)
class FinetuneLogConfig:
    """What a run writes and how often."""

    every: int = 10
    """Steps between lines of metrics.jsonl and points in TensorBoard. The loss is the mean over these steps."""
    validate_every: int = 1
    """Epochs between validations. There is one after the last step, too."""
    checkpoint_every: int = 1
    """Epochs between checkpoints. The last step always writes one."""
    keep_checkpoints: int = 3
    """Number of newest checkpoints to keep; 0: all. The best by validation is kept besides."""
    mistakes: int = 24
    """Images in the picture of the worst mistakes; 0: no picture."""
    trackers: tuple[str, ...] = ()
    """Experiment trackers that get the metrics, pictures and settings too, besides TensorBoard: aim, clearml, comet_ml,
    dvclive, mlflow, swanlab, trackio, wandb. Each needs its package (pip install wandb), and most an account. A resumed
    run continues the tracker's run."""
    project: str = "fcmae"
    """Project (of MLflow and Aim: experiment) that log.trackers file the run under. The run's name is the folder's."""

    def __post_init__(self) -> None:
        check_trackers(self.trackers, self.project)
        check_least(self, every=1, validate_every=1, checkpoint_every=1, keep_checkpoints=0, mistakes=0)


@dataclass(frozen=True)
class FinetuneConfig:
    """One run of fine-tuning."""

    weights: str | None = field(default=None, metadata={WORD: "WEIGHTS"})
    """Weights to start from: a run, a file or folder of any known format, a name of timm (with its pretrained weights),
    or the word scratch for random ones. Ignored when a run is resumed."""
    model: FinetuneModelConfig = field(default_factory=FinetuneModelConfig, metadata={"bare": "name"})
    data: FinetuneDataConfig = field(default_factory=FinetuneDataConfig, metadata={"bare": "path"})
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    train: FinetuneTrainConfig = field(default_factory=FinetuneTrainConfig)
    log: FinetuneLogConfig = field(default_factory=FinetuneLogConfig)
    output: str | None = None
    """Run folder, created if needed. Unset: runs/finetune-<date>-<time>. A run that is already there is resumed, or
    left untouched."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, …; auto: the accelerator if there is one. Several processes take one device each."""
    seed: int = 0
    """Seed of the split, the new weights, crops, augmentation and order. Seed and configuration determine the run."""
    resume: str = "auto"
    """auto: resume from the newest checkpoint in the run folder, if any. none: never resume. Or a run or checkpoint
    folder to resume from."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        takes = {
            "output": "give a folder, or leave it out for runs/finetune-<date>-<time>",
            "resume": "it takes auto, none or a path",
            "weights": "give a run, a file, a name of timm, or scratch",
        }
        for name, instead in takes.items():
            if getattr(self, name) == "":
                raise ValueError(f"{name} is empty; {instead}")
        if self.data.rotate90 and isinstance(self.model.img_size, tuple) and len(set(self.model.img_size)) > 1:
            raise ValueError(f"data.rotate90 needs a square model.img_size, got {self.model.img_size}")

    def with_absolute_paths(self) -> "FinetuneConfig":
        """The same configuration with absolute paths, valid from any working directory."""
        of_a_file = self.weights is not None and self.weights != SCRATCH and Path(self.weights).exists()
        return replace(
            self,
            output=absolute(self.output),
            weights=absolute(self.weights) if of_a_file else self.weights,
            data=replace(
                self.data,
                path=PHOTOS if self.data.path == PHOTOS else all_absolute(self.data.path),
                cache_dir=absolute(self.data.cache_dir),
            ),
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data with tuples as lists, as in config.yaml."""
        return plain(asdict(self))

"""Settings of what a run writes and measures: ``log.*`` and ``monitor.*``."""

import sys
from dataclasses import dataclass

from fcmae.config.checks import check_least

# accelerate's; tensorboard is always written
TRACKERS = ("aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb")
DIGITS = "digits"  # scikit-learn's digits, in place of a folder of labeled images


def check_trackers(trackers: tuple[str, ...], project: str) -> None:
    """ValueError for a tracker that there is not, or a project without a name."""
    for name in trackers:
        if name not in TRACKERS and not _is_registered(name):
            raise ValueError(f"trackers takes {', '.join(TRACKERS)}, got {name!r}")
    if not project:
        raise ValueError("project is empty; give a name, or leave it out for fcmae")


def _is_registered(name: str) -> bool:
    """Whether the user has given accelerate a tracker of this name; without importing accelerate."""
    tracking = sys.modules.get("accelerate.tracking")
    return tracking is not None and name in tracking.LOGGER_TYPE_TO_CLASS


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
    trackers: tuple[str, ...] = ()
    """Experiment trackers that get the metrics, pictures and settings too, besides TensorBoard: aim, clearml, comet_ml,
    dvclive, mlflow, swanlab, trackio, wandb. Each needs its package (pip install wandb), and most an account. A resumed
    run continues the tracker's run."""
    project: str = "fcmae"
    """Project (of MLflow and Aim: experiment) that log.trackers file the run under. The run's name is the folder's."""

    def __post_init__(self) -> None:
        check_trackers(self.trackers, self.project)
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

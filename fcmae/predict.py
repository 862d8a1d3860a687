"""Labels for images by a fine-tuned run, as a command (``fcmae predict RUN IMAGES``) and as a function.

    from fcmae.predict import predict

    found = predict("runs/classifier", "images/", output="predictions.csv")

Where the source has the labels itself, as a test set does, in a column of its table or as folders that are called like
the classes, it also tells how many predictions are right, or, of several labels, the mean average precision.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fcmae.cli.command import end, exit_status, say
from fcmae.cli.keywords import keyword_function
from fcmae.cli.parser import parse
from fcmae.config import check_least
from fcmae.config.source import SourceAccessConfig
from fcmae.errors import UserError
from fcmae.files import check_writable
from fcmae.wording import counted

if TYPE_CHECKING:
    from torch import Tensor

    from fcmae.analysis.accuracy import Accuracy
    from fcmae.finetuning.average_precision import AveragePrecision

logger = logging.getLogger("fcmae")

PROG = "python -m fcmae.predict"


@dataclass(frozen=True)
class PredictDataConfig(SourceAccessConfig):
    """How URLs and tables are read."""

    label_column: str | None = None
    """Column of a table that holds the labels, to score the predictions. Unset: label, labels, class or the like, if
    there is one."""
    split_column: str | None = None
    """Column of a table that says which images to score: those of test, or if there are none of val, or else of train.
    Unset: split, set, subset, fold or partition, if its values are such words."""

    @property
    def columns(self) -> list[str]:
        """Those that are named, as flags with their values."""
        named = {"label_column": self.label_column, "split_column": self.split_column}
        return [f"--data.{name} {value}" for name, value in named.items() if value is not None]


@dataclass(frozen=True)
class PredictConfig:
    """Predict the labels of images with a fine-tuned run: its best weights, read and cropped as in validation."""

    run: str
    """Run folder of fcmae finetune, one of its checkpoints, or an exported folder."""
    images: tuple[str, ...]
    """Images: a folder, image files, a glob in quotes, .tar or .zip archives, Parquet files, a list of paths (.txt,
    .csv), any of these by URL, or several of them."""
    output: str | None = None
    """File to write, .csv or .parquet: path, label, and the probability of every class. Unset: the table is printed."""
    features: str | None = None
    """File for the features, .npz or .parquet: the last stage's, averaged over the image and normalized, which the
    classifier sees."""
    threshold: float = 0.5
    """Probability from which on a label is given, where an image may have several."""
    batch_size: int = 64
    """Images per batch; does not change results."""
    num_workers: int = 4
    """Processes that read the images; 0: the main process reads them."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, …; auto: the accelerator if there is one."""
    overwrite: bool = False
    """Replace files that are there."""
    data: PredictDataConfig = field(default_factory=PredictDataConfig)

    def __post_init__(self) -> None:
        check_least(self, batch_size=1, num_workers=0)
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold must be between 0 and 1, got {self.threshold}")


@dataclass(frozen=True)
class Predicted:
    """Predictions for the images that could be read."""

    paths: tuple[str, ...]
    """N images, relative to a single folder, otherwise as listed or given."""
    labels: tuple[str, ...]
    """The most probable class; of several labels, those from the threshold on, joined by ``;``."""
    classes: tuple[str, ...]
    probabilities: "Tensor" = field(repr=False)
    """float32 [N, classes]."""
    features: "Tensor" = field(repr=False)
    """float32 [N, width]."""
    unreadable: int
    """How many images could not be read; each is named in the log."""
    accuracy: "Accuracy | None" = None
    """How many labels are the true ones, where the source has these: in a column of a table, in shards, or where each
    image lies in the folder of a class, of two or more classes in all. Of a source with splits, those to test on, or to
    validate on, or to train on, as ``truth`` says."""
    average_precision: "AveragePrecision | None" = None
    """The same of a run that gives several labels, from a table."""
    truth: str = ""
    """What they were compared with, for a line."""


@keyword_function(PredictConfig)
def predict(config: PredictConfig) -> Predicted:
    """Predict the labels of images.

    The settings are keywords, which :class:`PredictConfig` explains; a whole ``PredictConfig`` is accepted too.

    Raises:
        UserError: no fine-tuned run, no images, none that can be read, files that would be overwritten or that cannot
            be written.
    """
    from fcmae.finetuning import predictions_file as written  # here, because these imports take seconds
    from fcmae.finetuning.predicting import predictions

    for given, flag, endings in (
        (config.output, "--output", (*written.TABLES, *written.PARQUET)),
        (config.features, "--features", (*written.ARRAYS, *written.PARQUET)),
    ):
        if given is not None:
            written.check_no_source(Path(given), flag, config.images)
            written.check_name(Path(given), flag, endings, config.overwrite)
    if config.output is not None and config.features is not None:
        written.check_apart(Path(config.output), Path(config.features))
    if not Path(config.run).exists():
        raise UserError(f"{config.run} does not exist; give a run folder of fcmae finetune")
    for given, flag in ((config.output, "--output"), (config.features, "--features")):
        if given is not None:
            check_writable(Path(given), flag)
    found = predictions(config)
    if config.output is not None:
        written.write_predictions(Path(config.output), found.paths, found.labels, found.classes, found.probabilities)
    if config.features is not None:
        written.write_features(Path(config.features), found.paths, found.features)
    return found


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run the command line; returns the exit status: 0, or 1 after an error."""

    def work() -> None:
        config = parse(PredictConfig, argv, prog)
        _show(predict(config), config)

    return exit_status(prog, work)


def _show(found: Predicted, config: PredictConfig) -> None:
    if config.output is None:
        width = max(map(len, found.paths))
        best = found.probabilities.max(1)
        rows = zip(found.paths, found.labels, best.indices.tolist(), best.values.tolist(), strict=True)
        for path, label, n, share in rows:
            # of several labels the most probable class is named, because none or several may be given
            of_class = "" if label == found.classes[n] else f"{found.classes[n]} "
            say(f"{path:{width}}  {label or '–'}  {of_class}{share:.0%}\n")
    for file in filter(None, (config.output, config.features)):
        say(f"{counted(len(found.paths), 'image')}: {file}\n")
    if line := _score(found):
        if config.output is None:
            logger.info("%s", line)  # beside the table, which may be redirected
        else:
            say(f"{line}\n")


def _score(found: Predicted) -> str:
    """A line; empty if there are no true labels."""
    right, precision = found.accuracy, found.average_precision
    if right is not None:
        said = f"{right.correct:,} of {counted(right.total, 'prediction is', 'predictions are')} the {found.truth}: "
        share, interval = right.share, _between(right.interval)
    elif precision is not None:
        said = f"mean average precision by the {found.truth}: "
        share, interval = precision.mean, _between(precision.interval)
    else:
        return ""
    return f"{said}{share:.1%}{interval}"


def _between(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" [95% interval {100 * interval[0]:.1f} to {100 * interval[1]:.1f}]"


if __name__ == "__main__":
    end(main())

"""Pretrained features scored on labeled images, as a command (``fcmae evaluate``) and as a function.

from fcmae.evaluate import evaluate

evaluation = evaluate("runs/mine", data="labeled/")
evaluation.results[0].knn.top1.share
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from fcmae.analysis.evaluation_file import RESULT
from fcmae.cli.command import end, exit_status, output_folder, say
from fcmae.cli.keywords import keyword_function
from fcmae.cli.parser import parse
from fcmae.config import check_least, check_seed
from fcmae.config.pixels import PixelConfig
from fcmae.config.source import AccessConfig, PathConfig
from fcmae.files import write_text

if TYPE_CHECKING:
    from fcmae.analysis.evaluation import Evaluation
    from fcmae.analysis.features import Embedder
    from fcmae.data.classes import LabeledFiles
    from fcmae.data.labeled import LabeledData

logger = logging.getLogger("fcmae")

PROG = "python -m fcmae.evaluate"
IMG_SIZE, DIGITS_SIZE = 224, 64  # 64: 2×2 positions in the last stage of a usual stem, 8×8 of a stem of stride 1
DATASETS = ("torch/", "hfds/", "hfids/", "tfds/", "wds/")  # how timm tells the libraries that read them apart


@dataclass(frozen=True)
class LabeledSourceConfig(AccessConfig, PathConfig):
    """Where the labeled images are."""

    path: tuple[str, ...] | str | None = None
    """Folder with a subfolder for each class, or with train/ and val/ that have them; a glob in quotes of images in
    such folders; such a .tar or .zip; Parquet with a column of labels; any of these by URL, or hf:owner/name; or
    several, as a,b. Unset: the handwritten digits of scikit-learn."""
    label_column: str | None = None
    """Column of labels in Parquet and Arrow files. Unset: label, class or the like."""
    dataset: str | None = None
    """A dataset of timm.data.create_dataset in the folder data.path, such as torch/cifar10."""
    train_split: str = "train"
    """Split of data.dataset to train on."""
    test_split: str = "validation"
    """Split of data.dataset to test on."""
    download: bool = False
    """Let data.dataset be downloaded."""


@dataclass(frozen=True)
class EvaluateDataConfig(PixelConfig, LabeledSourceConfig):
    """The labeled images."""

    num_workers: int = 4
    """Processes that read the images of a folder; 0: the main process reads them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, num_workers=0)
        self.check_access()
        if (not self.path and self.path is not None) or "" in (self.path if isinstance(self.path, tuple) else ()):
            raise ValueError("path is empty; give a folder of classes, or leave it out for digits")
        if self.dataset is not None and self.path is None:
            raise ValueError(f"dataset {self.dataset} needs --data.path, the folder that holds it")
        if self.dataset is not None and isinstance(self.path, tuple):
            raise ValueError(f"dataset {self.dataset} takes one folder as --data.path, not {','.join(self.path)}")
        if self.dataset is not None and not self.dataset.startswith(DATASETS):  # timm would read it as a folder
            raise ValueError(
                f"dataset {self.dataset} is not known; give {'…, '.join(DATASETS)}…, or for a folder --data.path alone"
            )
        if self.set_for_files and (self.path is None or self.dataset is not None):
            what = "digits" if self.path is None else f"data.dataset {self.dataset}"
            raise ValueError(f"{self.set_for_files[0]} is for the image files of a folder, not for {what}")


@dataclass(frozen=True)
class EvaluateConfig:
    """Score pretrained features on labeled images, by nearest neighbors and a linear probe.

    Next to each checkpoint the same network with random weights and the raw pixels are scored: only what is above both
    was learned in pretraining.
    """

    ckpt: tuple[str, ...] = field(metadata={"metavar": "[LABEL=]CKPT"})
    """Run folder, checkpoint folder or weights file, or a timm name (random weights); LABEL names its row."""
    data: EvaluateDataConfig = field(default_factory=EvaluateDataConfig, metadata={"bare": "path"})
    pretrained: bool = False
    """Give timm names the weights that timm has (downloads them)."""
    allow_pickle: bool = False
    """Unpickle whatever a weights file holds. This runs code from the file; only for files that you trust."""
    use_ema: bool = True
    """Where a weights file has weights and their average over the steps (EMA), take the average; false: the others."""
    images: int | None = None
    """Maximum number of training images, and of test images: the same number from each class, drawn by seed.
    Unset: all."""
    test_share: float = 0.2
    """Share of each class to test on, where the data has no test split."""
    img_size: int | None = None
    """Side of the images in pixels. Unset: the run's own, else 224, less for a stem of stride 1 or 2; digits: at most
    64, except for networks that take one size only."""
    k: int = 20
    """Nearest neighbors that vote."""
    temperature: float = 0.07
    """Temperature of their votes, exp(cosine similarity / temperature)."""
    batch_size: int = 64
    """Images per batch; does not change results."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, …; auto: the accelerator if there is one."""
    seed: int = 0
    """Seed of the splits and of the random weights."""
    output: str | None = None
    """Folder for evaluation.json; unset: no file."""
    overwrite: bool = False
    """Replace an evaluation.json that is there."""

    def __post_init__(self) -> None:
        check_least(self, k=1, batch_size=1, img_size=1, images=2)
        check_seed(self.seed)
        if not 0 < self.test_share < 1:
            raise ValueError(f"test_share must be between 0 and 1, got {self.test_share}")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature must be above 0, got {self.temperature}")


@keyword_function(EvaluateConfig)
def evaluate(config: EvaluateConfig) -> "Evaluation":
    """Score the features of pretrained networks on labeled images.

    The settings are keywords (``data="labeled/"`` is ``data.path``), which :class:`EvaluateConfig` explains;
    a whole ``EvaluateConfig`` is accepted too.

    Raises:
        UserError: a wrong setting, weights or images that cannot be read, a result that would be overwritten.
    """
    from fcmae.analysis.names import parse_names
    from fcmae.data.classes import class_folder

    folder = None if config.output is None else output_folder(config.output, [RESULT], config.overwrite)
    named_networks = parse_names(config.ckpt)
    files = None
    if config.data.path is not None and config.data.dataset is None:
        seed, access = config.seed, config.data.access
        files = class_folder(config.data.path, config.test_share, seed, config.images, access=access)

    from fcmae.analysis.evaluation import Evaluation, Protocol, score_networks, with_baselines  # takes seconds
    from fcmae.analysis.features import embedder
    from fcmae.analysis.subjects import LoadOptions
    from fcmae.cli.devices import choose_device

    device = choose_device(config.device)
    data = _labeled_data(config, files)
    options = LoadOptions(
        pretrained=config.pretrained, allow_pickle=config.allow_pickle, use_ema=config.use_ema,
        img_size=config.img_size, seed=config.seed, pixels=config.data,
    )  # fmt: skip
    networks = [embedder(named, device, options) for named in named_networks]
    asked = with_baselines(networks, lambda network: _image_hw(network, config))
    protocol = Protocol(config.k, config.temperature, config.batch_size, config.seed)
    found = Evaluation(data.name, protocol, config.images, score_networks(asked, data, device, protocol))
    if folder is None:
        return found
    write_text(folder / RESULT, json.dumps(found.as_dict(), indent=2) + "\n")
    return replace(found, file=folder / RESULT)


def _labeled_data(config: EvaluateConfig, files: "tuple[LabeledFiles, LabeledFiles] | None") -> "LabeledData":
    from fcmae.data.labeled import labeled_digits, labeled_files, labeled_timm
    from fcmae.data.parts import named

    data = config.data
    if data.path is None:
        return labeled_digits(config.test_share, config.seed, config.images)
    if files is not None:
        return labeled_files(named(data.path), files, data.num_workers)
    assert data.dataset is not None
    assert isinstance(data.path, str)
    return labeled_timm(
        data.dataset, data.path, data.train_split, data.test_split, data.download, config.seed, config.images
    )


def _image_hw(network: "Embedder", config: EvaluateConfig) -> tuple[int, int]:
    if config.img_size is not None:
        return config.img_size, config.img_size
    height, width = network.image_hw or (IMG_SIZE, IMG_SIZE)
    if config.data.path is not None or network.takes_no_other:
        return height, width
    return min(height, DIGITS_SIZE), min(width, DIGITS_SIZE)


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run the command line; returns the exit status: 0, or 1 after an error."""
    return exit_status(prog, lambda: _show(evaluate(parse(EvaluateConfig, argv, prog))))


def _show(evaluation: "Evaluation") -> None:
    from fcmae.analysis.evaluation_table import evaluation_table

    say(evaluation_table(evaluation))
    if evaluation.file is not None:
        logger.info("written: %s", evaluation.file)


if __name__ == "__main__":
    end(main())

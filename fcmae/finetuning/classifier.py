"""A fine-tuned classifier, and how its images are cropped: of a run, one of its checkpoints, or an exported folder."""

from dataclasses import dataclass
from pathlib import Path

from fcmae.data.crop_share import crop_share
from fcmae.data.normalizer import Pixels
from fcmae.errors import UserError
from fcmae.finetuning.best import best_folder
from fcmae.runs.find import BEST, LAST, MODEL, resolve_checkpoint
from fcmae.runs.layout import CHECKPOINTS
from fcmae.weights.formats.base import CONFIG_JSON
from fcmae.weights.read import read_weights
from fcmae.weights.settings import pixels
from fcmae.weights.stated import CLASSES, stated_beside
from fcmae.weights.weights import Weights
from fcmae.wording import counted


@dataclass(frozen=True)
class Classifier:
    """What predictions are made with."""

    weights: Weights
    classes: tuple[str, ...]
    is_multi_label: bool
    """Whether an image may have several, or none."""
    crop_pct: float
    pixels: Pixels
    """How files are read, and normalized."""


def classifier_at(given: Path) -> Classifier:
    """The classifier that a path stands for: of a run its best weights, otherwise those that it names.

    Raises:
        UserError: there are no weights, no names of classes, or as many as the weights have no outputs for.
    """
    place = _place(given)
    stated = stated_beside(place)
    if not stated.classes:
        raise UserError(
            f"{given} has no names of classes: neither {CLASSES} of a run of fcmae finetune nor {CONFIG_JSON} beside "
            f"the weights has them; a pretrained run has no classifier"
        )
    weights = read_weights(place)
    if stated.names(weights.num_classes) is None:
        raise UserError(
            f"{weights.origin} has {counted(weights.num_classes, 'output')}, but {stated.file} names "
            f"{counted(len(stated.classes), 'class', 'classes')}"
        )
    crop_pct = crop_share(stated.crop_pct, weights.config.image_hw)
    return Classifier(weights, stated.classes, stated.is_multi_label, crop_pct, pixels(place, weights.config.in_chans))


def _place(given: Path) -> Path:
    """The folder or file with the weights."""
    name = given.absolute().name
    if name == LAST and given.is_file():
        return resolve_checkpoint(given)
    run = given.absolute().parent if name == CHECKPOINTS else given
    if not given.is_dir() or not (run / CHECKPOINTS).is_dir():
        return given
    best = best_folder(run)
    if not (best / MODEL).is_file():
        raise UserError(
            f"{given} is not a run of fcmae finetune with weights: it lacks {CHECKPOINTS}/{BEST}/{MODEL}; a pretrained "
            f"run has no classifier"
        )
    return best

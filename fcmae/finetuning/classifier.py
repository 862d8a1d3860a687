"""A fine-tuned classifier, and how its images are cropped: of a run, one of its checkpoints, or an exported folder."""

from dataclasses import dataclass
from pathlib import Path

from fcmae.data.normalizer import Pixels
from fcmae.errors import UserError
from fcmae.finetuning.best import best_folder
from fcmae.finetuning.classes import CLASSES, EXPORTED, classes_of
from fcmae.finetuning.samples import crop_share
from fcmae.runs.find import BEST, LAST, MODEL, resolve_checkpoint
from fcmae.runs.layout import CHECKPOINTS
from fcmae.weights import formats
from fcmae.weights.place import weights_file
from fcmae.weights.read import read_weights
from fcmae.weights.settings import pixels, run_setting
from fcmae.weights.weights import Weights


@dataclass(frozen=True)
class Classifier:
    """What predictions are made with."""

    weights: Weights
    classes: list[str]
    is_multi_label: bool
    """Whether an image may have several, or none."""
    image_hw: tuple[int, int]
    crop_pct: float
    pixels: Pixels
    """How files are read, and normalized."""


def classifier_at(given: Path) -> Classifier:
    """The classifier that a path stands for: of a run its best weights, otherwise those that it names.

    Raises:
        UserError: there are no weights, no names of classes, or as many as the weights have no outputs for.
    """
    place = _place(given)
    file = weights_file(place)
    stated = classes_of(place)
    if stated is None or not stated.names:
        raise UserError(
            f"{given} has no names of classes: neither {CLASSES} of a run of fcmae finetune nor {EXPORTED} beside the "
            f"weights has them; a pretrained run has no classifier"
        )
    weights = read_weights(place)
    if weights.num_classes != len(stated.names):
        raise UserError(
            f"{file} has {weights.num_classes} outputs, but {stated.file} names {len(stated.names)} classes"
        )
    sizes = (format.image_hw(file.parent) for format in formats.KNOWN)
    image_hw = next((size for size in sizes if size is not None), weights.config.image_hw)
    shares = (run_setting(file, "data", "crop_pct", float), *(one.crop_pct(file.parent) for one in formats.KNOWN))
    crop_pct = crop_share(next((share for share in shares if share is not None), None), image_hw)
    read_as = pixels(place, weights.config.in_chans)
    return Classifier(weights, stated.names, stated.multi_label, image_hw, crop_pct, read_as)


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

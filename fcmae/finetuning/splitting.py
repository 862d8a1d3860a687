"""How labeled images are divided into those to train and those to validate on."""

from collections.abc import Sequence

import numpy as np

from fcmae.data.classes import stratified_split
from fcmae.errors import UserError
from fcmae.finetuning.config import FinetuneDataConfig
from fcmae.finetuning.labeled_images import LabeledImages, LabeledSet, some_of


def share_of_each(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Places of a share of the images of every class, at least one, ascending; of a larger share more of the same."""
    random = np.random.default_rng(seed)
    groups = [np.arange(len(labels))] if labels.ndim == 2 else [np.flatnonzero(labels == c) for c in np.unique(labels)]
    kept = [random.permutation(places)[: max(1, round(share * len(places)))] for places in groups]
    return np.sort(np.concatenate(kept))


def split_at_random(
    name: str, images: LabeledImages, classes: tuple[str, ...], data: FinetuneDataConfig, seed: int
) -> LabeledSet:
    """Hold out a share of every class; where an image has several, of all images.

    Raises:
        UserError: too few images.
    """
    labels = images.labels
    if labels.ndim == 2:
        train, val = stratified_split(np.zeros(len(labels), int), data.val_share, seed)
        if not len(val):
            raise UserError(f"--data.path {name} holds one image; to be split, at least 2 are needed")
    else:
        few = [classes[c] for c in np.flatnonzero(np.bincount(labels, minlength=len(classes)) < 2)]
        if few:
            raise UserError(
                f"--data.path {name}: to be split, a class needs at least 2 images; too few in {some_of(few)}"
            )
        train, val = stratified_split(labels, data.val_share, seed)
    return LabeledSet(name, classes, images.subset(train), images.subset(val))


def check_known(of_val: Sequence[str], of_train: Sequence[str], val: str, train: str) -> None:
    """UserError if images to validate on have classes that those to train on lack; both are named for the message."""
    if strangers := sorted(set(of_val) - set(of_train)):
        raise UserError(
            f"--data.path {val} has classes that {train} lacks: {some_of(strangers)}; {train} has "
            f"{some_of(list(of_train))}"
        )

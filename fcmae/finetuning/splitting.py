"""How labeled images are divided into those to train and those to validate on."""

from collections.abc import Sequence

import numpy as np

from fcmae.data.classes import stratified_split
from fcmae.errors import UserError
from fcmae.finetuning.config import FinetuneDataConfig
from fcmae.finetuning.labeled_images import LabeledImages, LabeledSet, some_of


def share_of_each(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Places of a share of the images of every class, at least one, ascending; of a larger share more of the same.

    Where an image has several (``labels`` [N, C]), a share of all images, and one of each class that none of them has.
    """
    random = np.random.default_rng(seed)
    if labels.ndim == 2:
        order = random.permutation(len(labels))
        is_kept = np.arange(len(labels)) < max(1, round(share * len(labels)))
        first_of_each = (labels[order] > 0).argmax(0)  # 0 for a class that no image has; that place is kept anyway
        is_kept[first_of_each] = True
        return np.sort(order[is_kept])
    groups = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    kept = [random.permutation(places)[: max(1, round(share * len(places)))] for places in groups]
    return np.sort(np.concatenate(kept))


def split_of_several(labels_NC: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """:func:`fcmae.data.classes.stratified_split` where an image has any number of C classes.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011, https://doi.org/10.1007/978-3-642-23808-6_10): the
    rarest class first, each image goes where most of its class are wanted still. A class with two or more images is in
    the first split, and in the second unless its images' other classes prevent it. The second is larger than ``share``
    where many classes have few images. If so many have one that too few images are left, some are taken regardless.
    scikit-learn's splitters take each set of labels for a class of its own, and refuse one that a single image has.
    """
    random = np.random.default_rng(seed)
    has_NC = labels_NC > 0
    images, counts_C = len(has_NC), has_NC.sum(0)
    second_C = np.where(counts_C < 2, 0, np.clip(np.round(share * counts_C), 1, np.maximum(counts_C - 1, 1)))
    wanted_2C = np.stack([counts_C - second_C, second_C])
    second = min(max(1, round(share * images)), images - 1)
    wanted_2 = np.array([images - second, second])
    side_N, left_C = np.full(images, -1), counts_C.copy()
    while left_C.any():
        rarest = np.where(left_C > 0, left_C, images + 1).argmin()
        for place in random.permutation(np.flatnonzero(has_NC[:, rarest] & (side_N < 0))):
            most = wanted_2C[:, rarest] == wanted_2C[:, rarest].max()
            side_N[place] = side = int(np.where(most, wanted_2, wanted_2.min() - 1).argmax())
            wanted_2C[side] -= has_NC[place]
            wanted_2[side] -= 1
            left_C -= has_NC[place]
    unlabeled = random.permutation(np.flatnonzero(side_N < 0))
    side_N[unlabeled] = np.arange(len(unlabeled)) < wanted_2[1]
    for c in np.flatnonzero(counts_C):
        if not has_NC[side_N == 0, c].any():  # there is nothing to learn it from
            side_N[random.choice(np.flatnonzero(has_NC[:, c]))] = 0
    _fill(side_N, has_NC, second, random.permutation(images))
    return np.flatnonzero(side_N == 0), np.flatnonzero(side_N == 1)


def _fill(side_N: np.ndarray, has_NC: np.ndarray, second: int, order: np.ndarray) -> None:
    """Move images to side 1 until it has so many: first those whose classes all stay on side 0, too."""
    here_C, missing = has_NC[side_N == 0].sum(0), second - (side_N == 1).sum()
    for is_any in (False, True):
        for place in order[side_N[order] == 0]:
            if missing > 0 and (is_any or (here_C[has_NC[place]] > 1).all()):
                side_N[place] = 1
                here_C -= has_NC[place]
                missing -= 1


def split_at_random(
    name: str, images: LabeledImages, classes: tuple[str, ...], data: FinetuneDataConfig, seed: int
) -> LabeledSet:
    """Hold out a share of every class.

    Raises:
        UserError: too few images.
    """
    labels = images.labels
    if labels.ndim == 2:
        if len(labels) < 2:
            raise UserError(f"--data.path {name} holds one image; to be split, at least 2 are needed")
        train, val = split_of_several(labels, data.val_share, seed)
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

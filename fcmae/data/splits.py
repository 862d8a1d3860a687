"""Names of the two parts that a labeled set may come in: to train on, and to validate or test on."""

from collections.abc import Collection, Iterable

TRAIN = "train"
TRAINING = (TRAIN, "training")
TEST = ("val", "validation", "valid", "dev", "test")
"""The first of these that a set has is its other part."""
SPLITS = frozenset((*TRAINING, *TEST))


def split_folders(names: Collection[str]) -> tuple[str, str] | None:
    """Of the names of folders, whatever their case, those to train on and to test on; None: there are not both."""
    by_name = {name.lower(): name for name in sorted(names)}
    train, test = (next((by_name[name] for name in known if name in by_name), None) for known in (TRAINING, TEST))
    return None if train is None or test is None else (train, test)


def are_splits(names: Iterable[str]) -> bool:
    """Whether all of these are names of parts, whatever their case, and not of classes."""
    return {name.lower() for name in names} <= SPLITS

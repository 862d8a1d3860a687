"""Images that a table names more than once."""

import logging
from collections.abc import Sequence

import numpy as np

from fcmae.data.sources.image_set import ImageSet
from fcmae.data.splits import TRAINING
from fcmae.errors import UserError, in_a_line
from fcmae.files import identity
from fcmae.finetuning.tables import Row
from fcmae.runs.utf8_path import readable
from fcmae.wording import counted

logger = logging.getLogger("fcmae")


def each_once(rows: Sequence[Row], table: str) -> list[Row]:
    """The rows without those that say again what one before them says; a line counts them.

    Raises:
        UserError: an image has other labels in another row.
    """
    first: dict[object, Row] = {}
    others: dict[object, set[str]] = {}
    kept: dict[object, Row] = {}
    for row in rows:
        place = identity(row.path)
        kept.setdefault((place, _part(row)), row)
        if set(first.setdefault(place, row).labels) != set(row.labels):
            others.setdefault(place, set(first[place].labels)).update(row.labels)
    if others:
        place, labels = next(iter(others.items()))
        raise UserError(
            f"--data.path {table}: {_count(others)} other labels in another row; the first: "
            f"{_shown(first[place])}; write them as {in_a_line(';'.join(sorted(labels)))} in one row"
        )
    if repeats := len(rows) - len(kept):
        logger.info(
            "%s: %s an image and its label, which count once", table, counted(repeats, "row repeats", "rows repeat")
        )
    return list(kept.values())


def check_apart(table: str, train: Sequence[Row], val: Sequence[Row]) -> None:
    """UserError for images that are in both splits: their validation would tell nothing."""
    trained = {identity(row.path) for row in train}
    if both := [row for row in val if identity(row.path) in trained]:
        raise UserError(
            f"--data.path {table}: {_count(both)} rows in both splits, to train and to validate on; the first: "
            f"{_shown(both[0])}; leave each in one"
        )


def say_if_shared(where: str, train: ImageSet, val: ImageSet) -> None:
    """A warning about images of one part that are in the other under another name, such as a link."""
    shared = np.flatnonzero(np.isin(val.identities(), train.identities()))
    if len(shared):
        logger.warning(
            "%s: images both to train and to validate on, as other names of the same files: %s; the first: %s. Their "
            "score tells little",
            where, f"{len(shared):,}", in_a_line(readable(str(val[int(shared[0])]))),
        )  # fmt: skip


def _part(row: Row) -> str | None:
    return TRAINING[0] if row.split in TRAINING else row.split


def _count(found: Sequence[Row] | dict[object, set[str]]) -> str:
    return counted(len(found), "image has", "images have")


def _shown(row: Row) -> str:
    return in_a_line(readable(row.name))

"""Images that a table names more than once."""

import logging
import os
from collections.abc import Sequence

from fcmae.data.splits import TRAINING
from fcmae.errors import UserError, in_a_line
from fcmae.finetuning.tables import Row
from fcmae.runs.utf8_path import readable

logger = logging.getLogger("fcmae")


def each_once(rows: Sequence[Row], table: str) -> list[Row]:
    """The rows without those that say again what one before them says; a line counts them.

    Raises:
        UserError: an image has other labels in another row.
    """
    first: dict[str, Row] = {}
    others: dict[str, set[str]] = {}
    for row in rows:
        place = os.path.abspath(row.path)
        if set(first.setdefault(place, row).labels) != set(row.labels):
            others.setdefault(place, set(first[place].labels)).update(row.labels)
    if others:
        place, labels = next(iter(others.items()))
        raise UserError(
            f"--data.path {table}: {_count(others)} other labels in another row; the first: "
            f"{_shown(first[place])}; write them as {in_a_line(';'.join(sorted(labels)))} in one row"
        )
    kept = {(os.path.abspath(row.path), _part(row)): row for row in reversed(rows)}
    if repeats := len(rows) - len(kept):
        logger.info("%s: %d row(s) that repeat an image and its label count once", table, repeats)
    return list(reversed(kept.values()))


def check_apart(table: str, train: Sequence[Row], val: Sequence[Row]) -> None:
    """UserError for images that are in both splits: their validation would tell nothing."""
    trained = {os.path.abspath(row.path) for row in train}
    if both := [row for row in val if os.path.abspath(row.path) in trained]:
        raise UserError(
            f"--data.path {table}: {_count(both)} rows in both splits, to train and to validate on; the first: "
            f"{_shown(both[0])}; leave each in one"
        )


def _part(row: Row) -> str | None:
    return TRAINING[0] if row.split in TRAINING else row.split


def _count(found: Sequence[Row] | dict[str, set[str]]) -> str:
    return "1 image has" if len(found) == 1 else f"{len(found):,} images have"


def _shown(row: Row) -> str:
    return in_a_line(readable(row.name))

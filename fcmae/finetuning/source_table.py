"""What the source of images to predict says of them itself: labels and splits, of a table or of shards."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcmae.data.missing import ClassName
from fcmae.data.rows.columns import LABEL_COLUMNS, usual_column
from fcmae.data.rows.images import RowImages
from fcmae.data.rows.splits import in_split
from fcmae.data.sources.archives.images import ArchiveImages
from fcmae.data.sources.archives.names import expanded
from fcmae.data.sources.image_set import ImageSet, Joined
from fcmae.data.sources.lists import all_joined
from fcmae.data.splits import TEST, TRAINING, split_folders
from fcmae.data.stores.urls import is_url, local_path, shown
from fcmae.errors import UserError, in_a_line
from fcmae.files import identity
from fcmae.finetuning.cells import SPLIT_COLUMNS, splits_of
from fcmae.finetuning.labeled_images import some_of
from fcmae.finetuning.tables import NoHeaderError, columns_of, is_table, paths_of
from fcmae.runs.utf8_path import readable

if TYPE_CHECKING:
    from fcmae.predict import PredictConfig

logger = logging.getLogger("fcmae")

FLAG = "IMAGES"
SCORED = (TEST[-1], *TEST[:-1], *TRAINING)
"""Names of splits; of those that there are, the first is scored."""


@dataclass(frozen=True)
class SourceTable:
    """Its rows, and which images they are of."""

    where: str
    column: str
    """Of labels; empty: it has no name."""
    keys: Sequence[object]
    """What tells of each row which image it is."""
    cells: Sequence[Any] | None
    """Labels; None: there are none."""
    splits: Sequence[str | None] | None
    key_of: Callable[[int], object]
    """Index of an image → its key."""
    row: Callable[[int], str]
    """Index of a row → the row, for messages."""


def is_table_of_paths(sources: Sequence[str]) -> bool:
    """Whether these are a single file, here, that may be a table of paths and labels."""
    return len(sources) == 1 and is_table(sources[0]) and os.path.isfile(local_path(sources[0]))


def _where(config: "PredictConfig") -> str:
    sources = expanded(config.images)
    return in_a_line(readable(" ".join(map(shown, sources[:3])) + " …" * (len(sources) > 3)))


def source_table(images: ImageSet, config: "PredictConfig") -> SourceTable | None:
    """What a table, or shards with classes, say; None if they say nothing.

    Raises:
        UserError: it cannot be read, or a column was named that is not there.
    """
    sources, data, where = expanded(config.images), config.data, _where(config)
    places, name = range(len(images)), Path(sources[0]).name if len(sources) == 1 else ""
    if isinstance(images, RowImages):
        splits = _splits_of_rows(images, data.split_column, where)
        if splits is None and data.split is None:
            splits = _splits_by_name([f"{name}/{images.name(n).rpartition('/')[0]}" for n in places])
        where += f", split {data.split}" * (data.split is not None)
        column, cells = images.label_column or "", images.label_cells
        if cells is None and (unfit := images.unfit_labels):
            logger.warning("labels of %s are not used: %s", where, unfit)
        return SourceTable(where, column, places, cells, splits, lambda n: n, images.where)
    if is_table_of_paths(sources):
        return _of_paths(images, Path(local_path(sources[0])), config)
    if data.columns:
        raise UserError(f"{data.columns[0]} is for one table of paths, or for tables of images; {where} is neither")
    if isinstance(images, Joined) and any(isinstance(one, RowImages) or one.labels is not None for one in images.parts):
        raise UserError(f"{FLAG} {where}: labels are read of one source; predict these one by one")
    splits, cells = None, None
    if isinstance(images, ArchiveImages):
        archives = [Path(one).name for one in images.listed.archives]
        splits = _splits_by_name([f"{name}/{archives[n]}" for n in images.listed.columns["archive"].tolist()])
        cells = None if images.labels is None else [ClassName(text) for text in images.labels]
    else:
        splits = _splits_by_folder(images)
    if splits is None and cells is None:
        return None
    return SourceTable(where, "", places, cells, splits, lambda n: n, lambda n: in_a_line(images.name(n)))


def _of_paths(images: ImageSet, file: Path, config: "PredictConfig") -> SourceTable | None:
    data = config.data
    try:
        columns = columns_of(file, FLAG, (data.column, data.label_column, data.split_column))
    except NoHeaderError:
        if data.columns:
            raise
        return None
    _, names = paths_of(columns, data.column, file, FLAG)
    label = data.label_column or usual_column(list(columns), LABEL_COLUMNS)
    if label is not None and label not in columns:
        raise UserError(
            f"--data.label_column {label} is not a column of {_where(config)}; it has {some_of(list(columns))}"
        )
    splits = splits_of(list(columns), columns.__getitem__, data.split_column, _where(config))
    kept = [n for n, name in enumerate(names) if name]
    lines = all_joined(str(file), [names[n] for n in kept])

    def key_of(place: int) -> object:
        item = images.item(place)
        return identity(item) if isinstance(item, Path) else images.given(place)

    return SourceTable(
        _where(config),
        label or "",
        [line.text if is_url(line.path) else identity(line.path) for line in lines],
        None if label is None else [columns[label][n] for n in kept],
        _splits_by_name([file.name] * len(kept)) if splits is None else [splits[n] for n in kept],
        key_of,
        lambda row: f"row {kept[row] + 1} ({in_a_line(readable(names[kept[row]]))})",
    )


def _splits_of_rows(images: RowImages, column: str | None, where: str) -> Sequence[str] | None:
    """As a column says; UserError if only some of the files have one."""
    if column is None and usual_column(images.columns, SPLIT_COLUMNS) is None:
        if any(usual_column(file.schema.names, SPLIT_COLUMNS) is not None for file in images.files):
            raise UserError(f"{FLAG} {where}: some of its files have a column of splits, others none")
        return None
    return splits_of(images.columns, images.values, column, where)


def _splits_by_folder(images: ImageSet) -> list[str] | None:
    """The first folder of each image, if these are those of a set to train on and to test on."""
    tops = [images.name(n).partition("/")[0] for n in range(len(images))]
    return None if split_folders(set(tops)) is None else [top.lower() for top in tops]


def _splits_by_name(files: Sequence[str]) -> list[str] | None:
    """The split of each row by its file's name, or else its folders'; None: no name tells one."""

    def split(file: str) -> str:
        parts = (file.rpartition("/")[2], file)
        return next((one for part in parts for one in SCORED if in_split(part, one)), "")

    split_of = {file: split(file) for file in set(files)}
    return [split_of[file] for file in files] if any(split_of.values()) else None

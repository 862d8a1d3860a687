"""Rows of Parquet and Arrow files as an image set."""

import logging
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from fcmae.data.missing import ClassName, is_missing, label_text
from fcmae.data.rows.columns import class_names, label_column, unfit_labels
from fcmae.data.rows.files import ParquetRows, RowFile
from fcmae.data.rows.splits import in_split
from fcmae.data.sources.entries import further_names
from fcmae.data.sources.image_set import ImageSet, Stamp
from fcmae.data.sources.same import first_of_each, keys, number_of
from fcmae.data.stored import Stored
from fcmae.data.stores.fetching import FetchError, check_alive, some_of
from fcmae.data.stores.urls import is_url, last_part, shown
from fcmae.errors import UserError, brief

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class RowImage(Stored):
    """The image of a row."""

    file: RowFile
    row: int
    others: tuple[str, ...] = ()
    """Some files of the set, to ask whether the store is there when this one cannot be fetched."""

    def __str__(self) -> str:
        return f"{shown(self.file.where)}, row {self.row}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RowImage) and (self.file.where, self.row) == (other.file.where, other.row)

    def __hash__(self) -> int:
        return hash((self.file.where, self.row))

    @property
    def name(self) -> str:
        """The file's name and the row."""
        return f"{last_part(self.file.where)}-{self.row}"

    def read_bytes(self) -> bytes:
        """The bytes in the row.

        Raises:
            OSError: the row is empty or damaged, or the file cannot be read.
            StoreError: the file is behind a URL, and nothing of the set can be fetched any more.
        """
        try:
            return self.file.image(self.row)
        except FetchError as error:
            check_alive([self.file.where, *self.others], error, self.file.access)
            raise
        except (OSError, MemoryError, UserError):
            raise
        except Exception as error:  # pyarrow's, of several kinds
            raise OSError(f"damaged: {brief(error)}") from None

    def fingerprint(self) -> bytes | None:
        """What a Parquet file's own index says of all of its rows: reading one takes as long as reading a group."""
        return self.file.identity.encode() if isinstance(self.file, ParquetRows) else None


class RowImages(ImageSet):
    """The rows of several files, one after the other."""

    def __init__(self, files: Sequence[RowFile], names: Sequence[str]) -> None:
        self.files, self._names = tuple(files), tuple(names)
        self._others = some_of([file.where for file in self.files])
        self._ends = list(accumulate(file.count for file in files))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _place(self, index: int) -> tuple[int, int]:
        number = bisect_right(self._ends, index)
        return number, index - (self._ends[number - 1] if number else 0)

    def item(self, index: int) -> RowImage:
        """The image of a row."""
        number, row = self._place(index)
        return RowImage(self.files[number], row, self._others)

    def name(self, index: int) -> str:
        """The file's name relative to the source, and the row."""
        number, row = self._place(index)
        return f"{self._names[number]}/{row}"

    @property
    def is_far(self) -> bool:
        """Whether a file comes by URL."""
        return any(is_url(file.where) for file in self.files)

    @property
    def labels(self) -> Sequence[str] | None:
        """The values of the column of labels, or their names where the file has them; None: there is no such column.

        Raises:
            UserError: a row has no label, or several.
        """
        found: list[str] = []
        for file in self.files:
            named = _labels(file)
            if named is None:
                return None
            column, cells = named
            for row, value in enumerate(cells):
                if is_missing(value) or isinstance(value, list | dict):
                    what = "no label" if value is None else f"the label {value}"
                    what = "several labels" if isinstance(value, list) else what
                    raise UserError(f"--data.path {shown(file.where)}: row {row} has {what} in the column {column}")
                found.append(label_text(value))
        return found

    @property
    def label_column(self) -> str | None:
        """The name of the column of labels; None: a file has none.

        Raises:
            UserError: one is named that a file does not have, or that holds no labels.
        """
        found = [label_column(file.schema, file.access.label_column, shown(file.where)) for file in self.files]
        return None if None in found else found[0]

    @property
    def unfit_labels(self) -> str:
        """For a message: which column of a usual name holds something else; empty if there is none."""
        return next(filter(None, (unfit_labels(file.schema) for file in self.files)), "")

    @property
    def label_cells(self) -> list[Any] | None:
        """As :attr:`labels`, but as the rows have them: several in a list, or none."""
        named = [_labels(file) for file in self.files]
        return None if None in named else [cell for one in named if one is not None for cell in one[1]]

    @property
    def columns(self) -> list[str]:
        """Those that all files have."""
        return [name for name in self.files[0].schema.names if all(name in one.schema.names for one in self.files)]

    def values(self, column: str) -> list[Any]:
        """The cells of a small column of all files, numbers as their names where the file has them."""
        return [cell for file in self.files for cell in _named_cells(file, column)]

    def with_rows_of(self, other: "RowImages") -> "RowImages":
        """These rows, and then those of another set."""
        return RowImages([*self.files, *other.files], [*self._names, *other._names])

    def once(self) -> "RowImages":
        """Each file once; a line says how many further names of them are left out."""
        files = list(zip(self.files, self._names, strict=True))
        kept = first_of_each(files, lambda one: one[0].where)
        if len(kept) == len(files):
            return self
        logger.info("%s: %s", shown(self.files[0].where), further_names(len(files) - len(kept)))
        return RowImages([file for file, _ in kept], [name for _, name in kept])

    def bytes_at(self, places: np.ndarray) -> int:
        """Their share of the files."""
        return round(self.total_bytes * len(places) / max(1, len(self)))

    def where(self, index: int) -> str:
        """A row for messages: its number in the file, and of several files which one."""
        number, row = self._place(index)
        return f"row {row}" + f" of {shown(self.files[number].where)}" * (len(self.files) > 1)

    def of_split(self, split: str) -> "RowImages":
        """The files whose names say that they are of a split; there may be none."""
        chosen = [n for n, name in enumerate(self._names) if in_split(name, split)]
        return RowImages([self.files[n] for n in chosen], [self._names[n] for n in chosen])

    def identities(self) -> np.ndarray:
        """The file, and the row in it."""
        counts = [file.count for file in self.files]
        numbers = np.array([number_of(file.where) for file in self.files], np.uint64)
        return keys(np.repeat(numbers, counts), np.concatenate([np.arange(count) for count in counts]))

    def stamp(self, index: int) -> Stamp:
        """Size and time of the file."""
        file = self.files[self._place(index)[0]]
        return file.size, file.mtime_ns

    @property
    def total_bytes(self) -> int:
        """Of the files, whose other columns count, too."""
        return sum(file.size for file in self.files)


def _labels(file: RowFile) -> tuple[str, list[Any]] | None:
    """The column of labels and its cells; None: there is none."""
    column = label_column(file.schema, file.access.label_column, shown(file.where))
    return None if column is None else (column, _named_cells(file, column))


def _named_cells(file: RowFile, column: str) -> list[Any]:
    """The cells of a column, numbers as their names where the file has them."""
    names = class_names(file.schema, column) or []

    def named(cell: Any) -> Any:
        if isinstance(cell, list):
            return [named(one) for one in cell]
        return ClassName(names[cell]) if isinstance(cell, int) and 0 <= cell < len(names) else cell

    return [named(cell) for cell in file.values(column)]

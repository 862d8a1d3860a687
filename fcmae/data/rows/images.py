"""Rows of Parquet and Arrow files as an image set."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from fcmae.data.rows.columns import class_names, label_column
from fcmae.data.rows.files import ParquetRows, RowFile
from fcmae.data.rows.splits import in_split
from fcmae.data.sources.image_set import ImageSet, Stamp
from fcmae.data.stored import Stored
from fcmae.data.stores.fetching import FetchError, check_alive, some_of
from fcmae.data.stores.urls import is_url, last_part, shown
from fcmae.errors import UserError


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
            raise OSError(f"damaged: {' '.join(str(error).split())[:200]}") from None

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
            column = label_column(file.schema, file.access.label_column, shown(file.where))
            if column is None:
                return None
            names = class_names(file.schema, column) or []
            for row, value in enumerate(file.values(column)):
                is_nan = value != value or str(value).strip().lower() == "nan"
                if value is None or is_nan or isinstance(value, list | dict):
                    what = "several labels" if isinstance(value, list) else "the label nan" if is_nan else "no label"
                    raise UserError(f"--data.path {shown(file.where)}: row {row} has {what} in the column {column}")
                found.append(names[value] if isinstance(value, int) and 0 <= value < len(names) else str(value))
        return found

    def of_split(self, split: str) -> "RowImages":
        """The files whose names say that they are of a split; there may be none."""
        chosen = [n for n, name in enumerate(self._names) if in_split(name, split)]
        return RowImages([self.files[n] for n in chosen], [self._names[n] for n in chosen])

    def stamp(self, index: int) -> Stamp:
        """Size and time of the file."""
        file = self.files[self._place(index)[0]]
        return file.size, file.mtime_ns

    @property
    def total_bytes(self) -> int:
        """Of the files, whose other columns count, too."""
        return sum(file.size for file in self.files)

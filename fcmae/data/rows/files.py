"""The rows of one Parquet or Arrow file by their numbers, without the file in memory."""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import Any, BinaryIO

import numpy as np

from fcmae.data.rows.columns import Column, image_column
from fcmae.data.stores.access import Access
from fcmae.data.stores.fetching import FetchError, details
from fcmae.data.stores.remote_file import open_remote
from fcmae.data.stores.urls import is_url, shown
from fcmae.errors import UserError, brief

PARQUET, ARROW = (".parquet", ".pq"), (".arrow", ".feather")
ENDINGS = (*PARQUET, *ARROW)
INSTALL = "needs pyarrow; pip install 'fcmae[parquet]'"


def is_row_file(name: str) -> bool:
    """Whether it is a Parquet or Arrow file, by its ending."""
    return os.path.splitext(name)[1].lower() in ENDINGS


@dataclass(frozen=True)
class RowFile(ABC):
    """A file of rows. Picklable; opens the file anew in each process."""

    where: str
    """Path or URL."""
    column: Column | None
    identity: str
    """Changes with the file's contents."""
    size: int
    """Bytes of the file."""
    mtime_ns: int
    """Of a local file; 0 for others."""
    schema: Any
    """``pyarrow.Schema``."""
    access: Access

    @property
    @abstractmethod
    def count(self) -> int:
        """Rows."""

    @abstractmethod
    def image(self, row: int) -> bytes:
        """The bytes of a row's image file.

        Raises:
            OSError: without ``errno``: the row is empty; with: the file cannot be read.
        """

    def values(self, name: str) -> list[Any]:
        """All values of a small column, such as labels or paths; ``column.field`` of a struct.

        Raises:
            UserError: they cannot be read, or Python has no such values.
        """
        try:
            return self._values(name)
        except MemoryError:
            raise
        except Exception as error:  # pyarrow's, of several kinds; of texts that are none, a UnicodeDecodeError
            if isinstance(error, UserError):
                raise
            raise UserError(f"{shown(self.where)}: the column {name} cannot be read: {brief(error)}") from None

    @abstractmethod
    def _values(self, name: str) -> list[Any]:
        """As :meth:`values`."""


@dataclass(frozen=True)
class ParquetRows(RowFile):
    """Rows of Parquet, which is read by groups of rows; the images of a group go into the cache at its first use."""

    version: str
    """Of a file behind a URL, where the store tells it."""
    ends: np.ndarray
    """int64 [G]: the number of rows up to the end of each row group."""

    @property
    def count(self) -> int:
        """Rows."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def image(self, row: int) -> bytes:
        """The bytes of a row's image file; raises as :meth:`RowFile.image`."""
        cache = self.access.cache
        data = cache.get(self._key(row))
        if data is None:
            group = int(np.searchsorted(self.ends, row, side="right"))
            start = int(self.ends[group - 1]) if group else 0
            images = _group(self, group) if not cache.limit else _read_group(self, group)
            for number in range(len(images) if cache.limit else 0):
                if (one := images[number].as_py()) is not None:
                    cache.put(self._key(start + number), one)
            data = images[row - start].as_py()
        if not data:
            raise OSError("the row holds no image")
        return data

    def _key(self, row: int) -> str:
        assert self.column is not None
        return f"{self.identity}\0{self.mtime_ns}\0{self.version}\0{self.column.path}\0{row}"

    def _values(self, name: str) -> list[Any]:
        with _opened(self.where, self.access) as source:
            return _flat(parquet_file(source).read([name], use_threads=False).column(0)).to_pylist()


def _read_group(rows: ParquetRows, group: int) -> Any:
    """``pyarrow.ChunkedArray`` of a row group's images."""
    assert rows.column is not None
    with _opened(rows.where, rows.access, keeps=False) as source:  # its images go into the cache
        column = parquet_file(source).read_row_group(group, columns=[rows.column.path], use_threads=False).column(0)
    return _flat(column)


def _flat(column: Any) -> Any:
    """The only field of a column of structs."""
    import pyarrow

    if not pyarrow.types.is_struct(column.type):
        return column
    return pyarrow.chunked_array([chunk.field(0) for chunk in column.chunks], type=column.type.field(0).type)


@lru_cache(maxsize=1)
def _kept(where: str, identity: str, group: int) -> list[Any]:
    return []


def _group(rows: ParquetRows, group: int) -> Any:
    """The same, of the last group from memory: without a cache its rows may be asked for one by one."""
    kept = _kept(rows.where, rows.identity, group)
    if not kept:
        kept.append(_read_group(rows, group))
    return kept[0]


@dataclass(frozen=True)
class ArrowRows(RowFile):
    """Rows of an Arrow file (or stream, as ``datasets`` writes them), mapped into memory."""

    length: int

    @property
    def count(self) -> int:
        """Rows."""
        return self.length

    @cached_property
    def _table(self) -> Any:
        return _mapped(self.where)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_table"}

    def image(self, row: int) -> bytes:
        """The bytes of a row's image file; raises as :meth:`RowFile.image`."""
        assert self.column is not None
        value = self._table.column(self.column.name)[row]
        data = (value[self.column.inside] if self.column.inside and value.is_valid else value).as_py()
        if not data:
            raise OSError("the row holds no image")
        return data

    def _values(self, name: str) -> list[Any]:
        name, _, inside = name.partition(".")
        found = self._table.column(name).to_pylist()
        return [None if one is None else one[inside] for one in found] if inside else found


def open_rows(where: str, wanted: str | None, access: Access, flag: str = "--data.path") -> RowFile:
    """A Parquet or Arrow file by path or URL; only what says where its rows are is read.

    Args:
        where: path or URL.
        wanted: the column of images, see :func:`image_column`. ``column`` of the result is None if there is none.
        access: how it is fetched, and the cache.
        flag: option, for messages.

    Raises:
        UserError: pyarrow is missing, the file is damaged or cannot be reached, or has no such column.
    """
    named = f"{flag} {shown(where)}"
    try:
        import pyarrow
    except ImportError:
        raise UserError(f"{named} {INSTALL}") from None
    is_parquet = os.path.splitext(shown(where))[1].lower() in PARQUET
    if is_url(where) and not is_parquet:
        raise UserError(f"{named}: Arrow files are read from a local disk; give Parquet, or download it")
    try:
        return (_parquet if is_parquet else _arrow)(where, wanted, access, flag)
    except FetchError as error:
        raise UserError(f"{named} cannot be fetched: {error}") from None
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        if isinstance(error, OSError) and error.strerror:
            raise UserError(f"{named} cannot be read: {error.strerror}") from None
        kind = "Parquet" if is_parquet else "Arrow"
        raise UserError(f"{named} is no {kind} file, or is damaged: {brief(error)}") from None


def _parquet(where: str, wanted: str | None, access: Access, flag: str) -> ParquetRows:
    size, mtime_ns, version = _stamp(where, access)
    with _opened(where, access) as source:
        footer = _footer(source)
        file = parquet_file(source)
        groups = [file.metadata.row_group(n).num_rows for n in range(file.metadata.num_row_groups)]
        schema, metadata = file.schema_arrow, file.metadata
    column = image_column(schema, wanted, shown(where), flag)
    if column and column.inside and groups and _is_empty(metadata, column.path):
        column = Column(column.name, "path", False)
    contents = blake2b(footer + b"%d" % size, digest_size=16).hexdigest()
    ends = np.cumsum(groups, dtype=np.int64)
    return ParquetRows(where, column, contents, size, mtime_ns, schema, access, version, ends)


def _is_empty(metadata: Any, path: str) -> bool:
    """Whether the first rows have no value in a column."""
    columns = [metadata.row_group(0).column(n) for n in range(metadata.num_columns)]
    found = next((one for one in columns if one.path_in_schema == path), None)
    if found is None or found.statistics is None:
        return False
    return found.statistics.null_count == metadata.row_group(0).num_rows


def _footer(source: BinaryIO) -> bytes:
    """The sizes, places and statistics of all columns, as they are in the file."""
    if source.seek(0, os.SEEK_END) < 12:
        raise ValueError("it is too short")
    end = source.seek(-8, os.SEEK_END)
    length = int.from_bytes(source.read(4), "little")
    source.seek(max(0, end - length))
    return source.read(length)


def _arrow(where: str, wanted: str | None, access: Access, flag: str) -> ArrowRows:
    table = _mapped(where)
    size, mtime_ns, _ = _stamp(where, access)
    column = image_column(table.schema, wanted, where, flag)
    if column and column.inside and table.num_rows:
        first = table.column(column.name).chunk(0).field(column.inside)
        column = Column(column.name, "path", False) if first.null_count == len(first) else column
    contents = blake2b(repr((table.num_rows, size)).encode(), digest_size=16).hexdigest()
    return ArrowRows(where, column, contents, size, mtime_ns, table.schema, access, table.num_rows)


def _stamp(where: str, access: Access) -> tuple[int, int, str]:
    """Size, time of change, and the store's version."""
    if is_url(where):
        size, version = details(where, access)
        return size or 0, 0, version
    status = os.stat(where)
    return status.st_size, status.st_mtime_ns, ""


def _mapped(where: str) -> Any:
    import pyarrow

    source = pyarrow.memory_map(where)
    start = source.read(6)
    source.seek(0)
    return (pyarrow.ipc.open_file if start == b"ARROW1" else pyarrow.ipc.open_stream)(source).read_all()


def _opened(where: str, access: Access, keeps: bool = True) -> BinaryIO:
    return open_remote(where, access, keeps) if is_url(where) else open(where, "rb")


def parquet_file(source: BinaryIO) -> Any:
    """``pyarrow.parquet.ParquetFile``."""
    from pyarrow import parquet

    return parquet.ParquetFile(source)

"""Which Parquet and Arrow files make a set: of one split, and as rows of images or as lists of paths."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from fcmae.data.rows.files import RowFile, open_rows
from fcmae.data.rows.images import RowImages
from fcmae.data.rows.splits import in_split
from fcmae.data.stores.access import Access
from fcmae.data.stores.urls import is_url, shown
from fcmae.errors import UserError

AT_ONCE = 8  # files whose indices are fetched at the same time


class Table(NamedTuple):
    """A Parquet or Arrow file."""

    where: str
    """Path or URL."""
    name: str
    """Relative to the source."""


def opened(tables: Sequence[Table], access: Access, flag: str = "--data.path") -> list[RowFile]:
    """Their rows; raises as :func:`fcmae.data.rows.files.open_rows`."""
    with ThreadPoolExecutor(AT_ONCE if any(is_url(one.where) for one in tables) else 1) as pool:
        return list(pool.map(lambda one: open_rows(one.where, access.column, access, flag), tables))


def row_images(
    tables: Sequence[Table], access: Access, flag: str = "--data.path"
) -> RowImages | list[tuple[str, list[str]]]:
    """The images in the rows of some files; or if their column holds paths, those of each file.

    Raises:
        UserError: a file cannot be read, or has no column of images; or they have no rows.
    """
    files = opened(tables, access, flag)
    for file in files:
        if file.column is None:
            raise UserError(
                f"{flag} {shown(file.where)} has no column of images: the bytes of image files, or their paths; there "
                f"are {', '.join(file.schema.names[:20])}. Name it with --data.column"
            )
    if not sum(file.count for file in files):
        raise UserError(f"{flag} {shown(tables[0].where)} holds no images: it has no rows")
    if all(file.column and file.column.has_bytes for file in files):
        return RowImages(files, [one.name for one in tables])
    if any(file.column and file.column.has_bytes for file in files):
        raise UserError(f"{flag} {shown(tables[0].where)}: some of its files hold images, others paths only")
    columns = [(file.where, file.values(file.column.path)) for file in files if file.column and file.count]
    return [(where, found) for where, values in columns if (found := [path for path in values if path])]


def of_split(tables: Sequence[Table], split: str | None, where: str, flag: str = "--data.path") -> list[Table]:
    """Those of one split, which their names tell: ``train/0000.parquet``, ``data/train-00000-of-00002.parquet``.

    Raises:
        UserError: no name has it.
    """
    if split is None:
        return list(tables)
    found = [one for one in tables if in_split(one.name, split)]
    if not found:
        first = ", ".join(one.name for one in tables[:5]) + " …" * (len(tables) > 5)
        raise UserError(
            f"{flag} {shown(where)} has no files of the split {split} (--data.split); its files are {first}"
        )
    return found

"""Tables of images: their columns, splits and rows, what their digest and size are, and whose options theirs are."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from fcmae.data.sources.digest import digest
from fcmae.data.sources.files import collect
from fcmae.data.stores.access import Access
from fcmae.errors import UserError
from fcmae.evaluate import EvaluateDataConfig
from fcmae.finetuning.config import FinetuneDataConfig
from fcmae.finetuning.labels import labeled_set
from fcmae.pack import pack
from fcmae.stats import stats
from tests.fcmae.data.sources.tabled import dataset, table_of
from tests.fcmae.data.stores.server import Server


@pytest.fixture
def image_folder(image_folder: Path, tmp_path: Path) -> Path:
    """A copy, since archives and tables are put beside the images."""
    return shutil.copytree(image_folder, tmp_path / "images")


def test_an_empty_row_is_an_unreadable_image(tmp_path: Path, image_folder: Path, access: Access) -> None:
    good = (image_folder / next(iter(collect(image_folder).names))).read_bytes()
    rows = [{"bytes": good}, None, {"bytes": b"\x89PNG\r\n\x1a\njunk"}]
    parquet.write_table(pa.table({"image": rows}), tmp_path / "t.parquet")
    samples = dataset(collect(tmp_path / "t.parquet", access=access))
    assert samples[0, 1].unreadable[0].message == f"{tmp_path / 't.parquet'}, row 1: the row holds no image"
    assert samples[0, 2].unreadable[0].message.startswith(f"{tmp_path / 't.parquet'}, row 2: ")


def test_columns_of_paths_and_urls(tmp_path: Path, image_folder: Path, server: Server, access: Access) -> None:
    names = list(collect(image_folder).names)
    paths = [os.path.relpath(image_folder / name, tmp_path / "t") for name in names]
    (tmp_path / "t").mkdir()
    parquet.write_table(pa.table({"n": range(len(names)), "file_name": paths}), tmp_path / "t" / "paths.parquet")
    assert [Path(str(one)).resolve() for one in collect(tmp_path / "t" / "paths.parquet", access=access)] == [
        (image_folder / name).resolve() for name in names
    ]
    parquet.write_table(pa.table({"link": [f"{server.url}/{name}" for name in names]}), tmp_path / "urls.parquet")
    with pytest.raises(
        UserError, match=r"urls.parquet has no column of images.*there are link. Name it with --data.col"
    ):
        collect(tmp_path / "urls.parquet", access=access)
    found = collect(tmp_path / "urls.parquet", access=Access(access.cache_dir, "1MB", 1, column="link"))
    assert list(map(str, found)) == [f"{server.url}/{name}" for name in names]


def test_folders_of_tables_and_their_splits(tmp_path: Path, image_folder: Path, access: Access) -> None:
    names = list(collect(image_folder).names)
    table_of(image_folder, tmp_path / "set" / "data" / "train-00010-of-00011.parquet", names[:3])
    table_of(image_folder, tmp_path / "set" / "data" / "train-00009-of-00011.parquet", names[3:5])
    table_of(image_folder, tmp_path / "set" / "data" / "test-00000-of-00001.parquet", names[5:6])
    found = collect(tmp_path / "set", access=access)
    assert found.names[0] == "data/test-00000-of-00001.parquet/0"
    assert len(found) == 6
    train = collect(tmp_path / "set", access=Access(split="train"))
    assert [one.read_bytes() for one in train] == [(image_folder / n).read_bytes() for n in (*names[3:5], *names[:3])]
    assert len(collect(f"{tmp_path}/set/data/train*.parquet", access=access)) == 5
    with pytest.raises(UserError, match=r"no files of the split val \(--data.split\); its files are data/test-00000"):
        collect(tmp_path / "set", access=Access(split="val"))


def test_the_digest_tells_contents_and_not_places(tmp_path: Path, image_folder: Path, access: Access) -> None:
    names = list(collect(image_folder).names)
    first = digest(collect(table_of(image_folder, tmp_path / "a" / "t.parquet"), access=access)).split()
    moved = digest(collect(table_of(image_folder, tmp_path / "b" / "t.parquet"), access=access)).split()
    assert [one == other for one, other in zip(first, moved, strict=True)] == [
        True,
        True,
        True,
        False,
        True,
    ]  # the date
    (image_folder / names[3]).write_bytes((image_folder / names[4]).read_bytes())
    other = digest(collect(table_of(image_folder, tmp_path / "b" / "t.parquet"), access=access)).split()
    assert other[4] != first[4]


def test_the_size_of_a_table_counts_once(tmp_path: Path, image_folder: Path) -> None:
    """And not once for each row."""
    tables = [table_of(image_folder, tmp_path / f"{n}.parquet") for n in range(2)]
    size = sum(table.stat().st_size for table in tables)
    assert collect(tables).total_bytes == size
    of_folder = sum(path.stat().st_size for path in collect(image_folder))  # type: ignore[union-attr]
    assert collect(image_folder).total_bytes == of_folder
    both = [*map(str, tables), str(image_folder)]
    assert collect(both).total_bytes == size + of_folder
    assert stats(tuple(both), num_workers=0).total_bytes == size + of_folder
    packed = pack(str(tables[0]), str(tmp_path / "packed"), num_workers=0)
    assert packed.source_bytes == tables[0].stat().st_size


@pytest.mark.parametrize("option", ["column", "label_column", "split"])
def test_options_of_tables_are_never_ignored(image_folder: Path, tmp_path: Path, access: Access, option: str) -> None:
    """Where nothing is a table, they are refused; one table among the sources is enough."""
    wanted = replace(access, **{option: "train"})
    with pytest.raises(UserError, match=rf"--data\.{option} train is for Parquet and Arrow files, .*images has none"):
        collect(image_folder, access=wanted)
    with pytest.raises(ValueError, match=f"{option} train is for Parquet and Arrow files; path is not set"):
        EvaluateDataConfig(**{option: "train"})
    table = table_of(image_folder, tmp_path / "t" / "train.parquet", train=list(range(10)))
    names = {"column": "image", "label_column": "train", "split": "train"}
    assert len(collect([image_folder, table], access=replace(access, **{option: names[option]}))) == 20


def test_a_list_to_fine_tune_on_has_its_own_options(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("path,label\n1.png,cat\n")
    with pytest.raises(UserError, match=r"--data\.split val is for tables of images; .* --data\.split_column"):
        labeled_set(FinetuneDataConfig(path=str(tmp_path / "a.csv"), split="val"), 0)

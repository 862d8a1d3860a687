"""The same images by folder, URL and table are the same samples, and what goes wrong on the way is one line."""

import os
import shutil
import threading
import uuid
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from fcmae.config import DataConfig
from fcmae.data.classes import class_parts
from fcmae.data.rows.opening import Table
from fcmae.data.samples import PretrainDataset
from fcmae.data.sources import remote
from fcmae.data.sources.archives import index as archive_index
from fcmae.data.sources.archives.member import Found
from fcmae.data.sources.digest import digest
from fcmae.data.sources.entries import Survey
from fcmae.data.sources.files import collect
from fcmae.data.sources.image_set import ImageSet
from fcmae.data.stores import fetching, hub
from fcmae.data.stores.access import Access
from fcmae.data.stores.listing import Listed
from fcmae.errors import StoreError, UserError
from fcmae.evaluate import EvaluateDataConfig
from fcmae.finetuning.config import FinetuneDataConfig
from fcmae.finetuning.labels import labeled_set
from fcmae.models import ModelConfig
from fcmae.pack import pack
from fcmae.stats import stats
from tests.fcmae.data.sources.packed import make_tar, make_zip
from tests.fcmae.data.stores.server import Server, serving

MODEL = ModelConfig(img_size=32, stem_stride=1)


@pytest.fixture
def access(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Access:
    monkeypatch.setattr(fetching, "WAITS", (0.01,))
    return Access(str(tmp_path / "cache"), "20MB", timeout=0.5)


@pytest.fixture
def image_folder(image_folder: Path, tmp_path: Path) -> Path:
    """A copy, since archives and tables are put beside the images."""
    return shutil.copytree(image_folder, tmp_path / "images")


@pytest.fixture
def server(image_folder: Path) -> Iterator[Server]:
    with serving(image_folder) as found:
        yield found


def dataset(images: ImageSet) -> PretrainDataset:
    return PretrainDataset(images, DataConfig(path="x"), MODEL, 0.6, 0)


def table_of(folder: Path, file: Path, names: list[str] | None = None, **columns: object) -> Path:
    """A Parquet file of the images of a folder in groups of four, as ``datasets`` writes it."""
    chosen = names or list(collect(folder).names)
    rows = [{"bytes": (folder / name).read_bytes(), "path": Path(name).name} for name in chosen]
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table({"image": rows, **columns}), file, row_group_size=4)
    return file


def bucket_of(folder: Path) -> str:
    url = f"memory://{uuid.uuid4().hex}"
    for name in collect(folder).names:
        with fsspec.open(f"{url}/{name}", "wb") as file:
            file.write((folder / name).read_bytes())
    return url


@pytest.mark.parametrize(
    "kind",
    [
        *("web", "bucket", "pattern", "list", "list by URL", "table", "table by URL", "file://"),
        *("zip by URL", "tars by URL", "tars of a folder"),
    ],
)
def test_the_same_samples(image_folder: Path, tmp_path: Path, server: Server, access: Access, kind: str) -> None:
    """Bit for bit those of the folder, twice: from the store and from the cache."""
    folder = collect(image_folder)
    table = table_of(image_folder, image_folder / "t.parquet") if kind == "table by URL" else tmp_path / "t.parquet"
    if "tars" in kind:
        (image_folder / "tars").mkdir(exist_ok=True)
        for n in range(2):
            make_tar(image_folder / "tars" / f"s-{n}.tar", image_folder, list(folder.names)[n::2])
    if "zip" in kind:
        make_zip(image_folder / "all.zip", image_folder, list(folder.names), zipfile.ZIP_DEFLATED)
    lines = tmp_path / "list.txt"
    lines.write_text("".join(f"{server.url}/{name}\n" for name in folder.names))
    (image_folder / "list.csv").write_text("path\n" + "".join(f"{name}\n" for name in folder.names))
    source = {
        "web": lambda: server.url,
        "bucket": lambda: bucket_of(image_folder),
        "pattern": lambda: f"{server.url}/**/*.png",
        "list": lambda: str(lines),
        "list by URL": lambda: f"{server.url}/list.csv",
        "table": lambda: str(table_of(image_folder, table)),
        "table by URL": lambda: f"{server.url}/t.parquet",
        "file://": lambda: f"file://{image_folder}",
        "zip by URL": lambda: f"{server.url}/all.zip",
        "tars by URL": lambda: f"{server.url}/tars/s-{{0..1}}.tar",
        "tars of a folder": lambda: f"{server.url}/tars",
    }[kind]()
    images = collect(source, access=access, leave_out=tmp_path / "run")
    assert len(images) == len(folder)
    if kind in ("web", "bucket", "file://", "zip by URL", "tars by URL", "tars of a folder"):
        assert list(images.names) == list(folder.names)
    expected, found = dataset(folder), dataset(images)
    for epoch, index in ((0, 0), (0, 7), (1, 3), (0, 0)):
        one, other = expected[epoch, index], found[epoch, index]
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.visible, other.visible)
        assert not other.unreadable


def test_one_image_that_fails_is_skipped(image_folder: Path, server: Server, access: Access) -> None:
    images = collect(server.url, access=access)
    samples = dataset(images)
    failing = str(images[2])
    for fault, reason in (("break", "the connection broke off"), (404, "is not there"), (500, "HTTP 500")):
        server.failing = {failing.removeprefix(server.url): fault}
        sample = samples[0, 2]
        assert [one.name for one in sample.unreadable] == [failing]
        assert f"{failing}: {reason}" in sample.unreadable[0].message
    server.failing = {}
    assert not samples[0, 2].unreadable  # it is tried again


@pytest.mark.parametrize("fault", ["hang", "break", 503, 403])
def test_a_store_that_is_gone_stops_the_run(server: Server, access: Access, fault: str | int) -> None:
    samples = dataset(collect(server.url, access=access))
    _ = samples[0, 0]
    server.failing = {"": fault}
    with pytest.raises(StoreError, match=rf"^{server.url}/.* cannot be fetched: .*; neither can \d other"):
        _ = samples[0, 5]
    _ = samples[0, 0]  # what is cached is there


def test_a_table_whose_store_is_gone(image_folder: Path, server: Server, access: Access) -> None:
    table_of(image_folder, image_folder / "t.parquet")
    samples = dataset(collect(f"{server.url}/t.parquet", access=replace(access, cache_size="0")))
    server.failing = {"": "break"}
    with pytest.raises(StoreError, match=r"/t.parquet cannot be fetched: the connection broke off"):
        _ = samples[0, 5]


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_archive_whose_store_is_gone(
    image_folder: Path, server: Server, access: Access, tmp_path: Path, kind: str
) -> None:
    """At the start a line that names it, later the end of the run; an index is kept only if it is whole."""
    (make_tar if kind == "tar" else make_zip)(
        image_folder / f"x.{kind}", image_folder, list(collect(image_folder).names)
    )
    access, url = replace(access, cache_size="0"), f"{server.url}/x.{kind}"
    server.failing = {"": "break"}
    with pytest.raises(UserError, match=rf"^--data.path {url} cannot be fetched: the connection broke off$"):
        collect(url, access=access, leave_out=tmp_path / "run")
    server.failing = {}
    images = collect(url, access=access, leave_out=tmp_path / "run")
    assert len(images) == len(collect(image_folder))
    count = server.count()
    samples = dataset(collect(url, access=access, leave_out=tmp_path / "run"))
    assert server.count() == count  # the index was kept
    server.failing = {"": "break"}
    with pytest.raises(StoreError, match=rf"^{url} cannot be fetched: the connection broke off$"):
        _ = samples[0, 5]


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_what_is_indexed_is_fetched_and_cached_once(
    image_folder: Path, server: Server, access: Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Of tars the images, and their labels, come with the index; of Parquet with the first image of a group."""
    block = 2000
    monkeypatch.setattr("fcmae.data.stores.remote_file.BLOCK", block)
    names, access = list(collect(image_folder).names), replace(access, timeout=5)
    names *= 1 if kind == "tar" else 10
    files = [image_folder / name for name in names]
    for n, file in enumerate(files):
        file.with_name(f"{file.name.partition('.')[0]}.cls").write_text(str(n % 2))
    if kind == "tar":
        every = [path.relative_to(image_folder).as_posix() for path in image_folder.rglob("*") if path.is_file()]
        make_tar(image_folder / "x.tar", image_folder, sorted(every))
    else:
        table_of(image_folder, image_folder / "x.parquet", names)
    images = collect(f"{server.url}/x.{kind}", access=access, leave_out=tmp_path / "run")
    found = [image.read_bytes() for image in images]
    assert found == [file.read_bytes() for file in files]
    if kind == "tar":
        assert list(images.labels or ()) == [str(n % 2) for n in range(len(names))]
        assert server.count() <= -(-(image_folder / "x.tar").stat().st_size // block)
    size = sum(len(data) for data in found)
    kept = sum(one.stat().st_size for one in Path(access.cache_dir or "").glob("??/*"))
    end = (image_folder / "x.parquet").read_bytes()[-8:-4] if kind == "parquet" else b""
    assert size < kept < size + 4 * block + 2 * int.from_bytes(end, "little")  # of Parquet its own index, too


def test_several_archives_are_indexed_at_once(
    image_folder: Path, server: Server, access: Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each listing waits for the other one; the order stays that of the archives."""
    names, listed = list(collect(image_folder).names), archive_index.members
    for n in range(2):
        make_tar(image_folder / f"s-{n}.tar", image_folder, names)
    meeting = threading.Barrier(2)

    def members(path: str, survey: Survey, access: Access | None = None) -> Iterator[Found]:
        meeting.wait(10)
        return listed(path, survey, access)

    monkeypatch.setattr(archive_index, "members", members)
    images = collect(f"{server.url}/s-{{0..1}}.tar", access=access, leave_out=tmp_path / "run")
    assert list(images.names) == [name for name in names for _ in range(2)]
    assert [str(one)[-len(name) - 6 : -len(name) - 5] for name, one in zip(images.names, images, strict=True)] == [
        "0", "1",
    ] * len(names)  # fmt: skip


@pytest.mark.parametrize("kind", ["tar", "zip", "parquet"])
@pytest.mark.parametrize("fault", [403, "break", 404])
def test_one_archive_or_table_that_fails_is_skipped(
    image_folder: Path, server: Server, access: Access, tmp_path: Path, kind: str, fault: int | str
) -> None:
    """The others answer, so the run goes on; if none does, it ends."""
    names, access = list(collect(image_folder).names), replace(access, cache_size="0")
    for n in range(3):
        some, file = names[n::3], image_folder / "parts" / f"s-{n}.{kind}"
        file.parent.mkdir(exist_ok=True)
        table_of(image_folder, file, some) if kind == "parquet" else {"tar": make_tar, "zip": make_zip}[kind](
            file, image_folder, some
        )
    images = collect(f"{server.url}/parts", access=access, leave_out=tmp_path / "run")
    place = next(n for n, image in enumerate(images) if "/s-1." in str(image))
    other = next(n for n, image in enumerate(images) if "/s-2." in str(image))
    samples = dataset(images)
    _ = samples[0, other]
    server.failing = {"/s-1.": fault}
    sample = samples[0, place]
    assert [one.name for one in sample.unreadable] == [str(images[place])]
    server.failing = {"/s-": 403}
    with pytest.raises(StoreError, match=r"cannot be fetched: access denied.*; neither can [23] other"):
        _ = samples[0, place]


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
    with pytest.raises(UserError, match=r"no files of the split val \(--data.split\); there are data/test-00000"):
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


def test_the_digest_of_a_web_server(server: Server, image_folder: Path, access: Access) -> None:
    images = collect(server.url, access=access)
    before = digest(images)
    assert digest(collect(server.url, access=access)) == before
    assert server.count(".png") == 0  # it asks for sizes only
    file = image_folder / images.names[0]
    file.write_bytes(file.read_bytes() + b"x")
    assert digest(collect(server.url, access=access)) != before
    server.failing = {"": 503}
    with pytest.raises(StoreError):
        digest(images)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("foo://b/x", "foo://b/x: Protocol not known: foo"),
        ("s3://b/x/", "s3:// needs a package that is not installed: pip install 'fcmae[s3]'"),
        ("memory://nowhere", "--data.path memory://nowhere is not there"),
        ("http://127.0.0.1:9/x/", "--data.path http://127.0.0.1:9/x/ cannot be listed: Connection refused"),
        ("http://127.0.0.1:9/x.csv", "--data.path http://127.0.0.1:9/x.csv cannot be fetched: Connection refused"),
        (
            "http://127.0.0.1:9/x.parquet",
            "--data.path http://127.0.0.1:9/x.parquet cannot be fetched: Connection refused",
        ),
        ("http://[bad/x.jpg", "--data.path http://[bad/x.jpg is no URL: Invalid IPv6 URL"),
        ("http://u:secret@[bad/x.tar?key=secret", "--data.path http://[bad/x.tar is no URL: Invalid IPv6 URL"),
        ("https:///x.jpg", "--data.path https:///x.jpg is no URL: it names no host"),
        ("http://h:99999/x/", "--data.path http://h:99999/x/ is no URL: Port out of range"),
        ("ftp://127.0.0.1:9/x.tar", "ftp://127.0.0.1:9/x.tar cannot be reached: Connection refused"),
        ("zip://nowhere.zip", "zip://nowhere.zip cannot be reached: is not there"),
        ("reference://x", "reference://x: ReferenceFileSystem"),
        ("hf:name", "--data.path hf:name is no dataset's name; give hf:owner/name"),
    ],
)
def test_what_cannot_be_reached(source: str, message: str, access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(UserError) as caught:
        collect(source, access=access)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_list_with_a_broken_url(tmp_path: Path, server: Server, access: Access) -> None:
    (tmp_path / "list.txt").write_text(f"{server.url}/1.png\nhttp://[bad/2.png\n")
    with pytest.raises(UserError, match=r"^--data.path .*list.txt: http://\[bad/2.png is no URL: Invalid IPv6 URL$"):
        collect(tmp_path / "list.txt", access=access)


def test_local_lines_of_a_list_with_urls(
    image_folder: Path, tmp_path: Path, server: Server, access: Access, caplog: pytest.LogCaptureFixture
) -> None:
    """They are taken as in a list without URLs: folders are looked into, what is not there or no image is named."""
    names = list(collect(image_folder).names)
    (tmp_path / "more").mkdir()
    for name in ("b.png", "a.png"):
        shutil.copy(image_folder / names[0], tmp_path / "more" / name)
    (tmp_path / "more" / "notes.txt").write_text("none")
    lines = ["more/b.png", "gone.png", f"{server.url}/{names[0]}", "more", "more/notes.txt", "images/" + names[1]]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    with caplog.at_level("INFO"):
        images = collect(tmp_path / "list.txt", access=access)
    local = ["more/b.png", f"{server.url}/{names[0]}", "more/a.png", f"images/{names[1]}"]
    assert list(images.names) == local
    assert [str(one) for one in images] == [one if "://" in one else str(tmp_path / one) for one in local]
    assert f"skipped, cannot be read: {tmp_path / 'gone.png'} (No such file or directory)" in caplog.text
    assert "2 .txt" in caplog.text
    assert "1 further names" in caplog.text
    (tmp_path / "list.txt").write_text(f"{server.url}/a.zarr\ngone.png\n")
    with pytest.raises(UserError, match=r"list.txt holds no images; skipped, .*gone.png .*; OME-Zarr .*/a.zarr$"):
        collect(tmp_path / "list.txt", access=access)


@pytest.mark.parametrize("kind", ["tar", "zip", "web", "bucket"])
def test_ome_zarr_in_archives_and_by_url_is_named(
    image_folder: Path, tmp_path: Path, server: Server, access: Access, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """One line at the start, and never an image that cannot be read; their chunks are not looked into."""
    expected = list(collect(image_folder).names)
    for name in (
        "a.ome.zarr/0/0.0",
        "a.ome.zarr/0/0.1",
        "a.ome.zarr/zarr.json",
        "b.zarr.zip",
        "c/d.OZX",
        "e.zarr/1.png",
    ):
        (image_folder / name).parent.mkdir(parents=True, exist_ok=True)
        (image_folder / name).write_bytes((image_folder / expected[0]).read_bytes())
    names = [path.relative_to(image_folder).as_posix() for path in image_folder.rglob("*") if path.is_file()]
    url = f"memory://{uuid.uuid4().hex}"
    for name in names:
        with fsspec.open(f"{url}/{name}", "wb") as file:
            file.write((image_folder / name).read_bytes())
    source, where = {
        "tar": lambda: (f"{make_tar(tmp_path / 'a.tar', image_folder, names)}",) * 2,
        "zip": lambda: (f"{make_zip(tmp_path / 'a.zip', image_folder, names)}",) * 2,
        "web": lambda: (server.url,) * 2,
        "bucket": lambda: (url,) * 2,
    }[kind]()
    for _ in range(2):  # archives: from the index, too
        caplog.clear()
        with caplog.at_level("INFO"):
            images = collect(source, access=access, leave_out=tmp_path / "runs" / "run")
        assert sorted(images.names) == sorted([*expected, "e.zarr/1.png"])
        (line,) = [one for one in caplog.messages if "OME-Zarr" in one]
        assert line.replace(":///", "://").endswith(
            f"is not read; unpack or download it: {where}/a.ome.zarr, {where}/b.zarr.zip, {where}/c/d.OZX"
        )
        assert "passed over" not in caplog.text
    if kind in ("web", "bucket"):
        for name in ("a.ome.zarr", "a.ome.zarr/", "b.zarr.zip", "c/d.OZX"):
            with pytest.raises(UserError, match=r"holds no images; OME-Zarr in archives and by URL is not read"):
                collect(f"{source}/{name}", access=access)


def test_a_store_without_images(access: Access) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    with fsspec.open(f"{url}/a.mp4", "wb") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=r"holds no images; passed over, no images that can be read: 1 .mp4"):
        collect(url, access=access)


CONVERTED = "hf://datasets/o/n@refs/convert/parquet"


@pytest.mark.parametrize(
    ("source", "split", "there", "expected"),
    [
        ("hf:o/n", None, ["default/train/0000.parquet", "default/test/0000.parquet"], ["default/train/0000.parquet"]),
        ("hf:o/n", "test", ["default/train/0000.parquet", "default/test/0000.parquet"], ["default/test/0000.parquet"]),
        (
            "hf:o/n",
            None,
            ["default/all/1.parquet", "default/all/0.parquet"],
            ["default/all/1.parquet", "default/all/0.parquet"],
        ),
        ("hf:o/n/b", None, ["a/train/0.parquet", "b/train/0.parquet"], ["b/train/0.parquet"]),
        (
            "hf:o/n",
            None,
            ["a/train/0.parquet", "b/train/0.parquet"],
            "has several configurations; add one, as hf:o/n/a: a, b",
        ),
        ("hf:o/n/c", None, ["a/train/0.parquet"], "has no configuration c; there are a"),
    ],
)
def test_names_of_the_hub(
    source: str, split: str | None, there: list[str], expected: list[str] | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listed(url: str, access: Access, flag: str) -> list[Listed]:
        assert url == CONVERTED
        return [Listed(f"{url}/{name}", name, 1, "v") for name in there]

    monkeypatch.setattr(hub, "listed", listed)
    monkeypatch.setattr(remote, "table_images", lambda tables, access, flag: [table.where for table in tables])
    if isinstance(expected, str):
        with pytest.raises(UserError) as caught:
            collect(source, access=Access(split=split))
        assert expected in str(caught.value)
    else:
        monkeypatch.setattr(remote, "listed_images", lambda paths, *rest: paths)
        found = remote.remote_images(source, Access(split=split), remote.Survey(), None, "--data.path")
        assert found == [f"{CONVERTED}/{name}" for name in expected]


@pytest.mark.parametrize(
    ("source", "split", "partial"),
    [
        ("hf:o/n", None, "partial-train"),
        ("hf:o/n", "train", "partial-train"),
        (CONVERTED, None, "partial-train"),
        ("hf:o/n", "test", None),
    ],
)
def test_a_part_of_a_split_is_named(
    source: str,
    split: str | None,
    partial: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The hub's Parquet ends after about 5 GB of a large split; splits whose names only end alike are others."""
    names = [f"default/{one}/0.parquet" for one in ("partial-train", "pretrain", "test")]
    there = [Listed(f"{CONVERTED}/{name}", name, 1, "v") for name in names]
    for module in (hub, remote):
        monkeypatch.setattr(module, "listed", lambda url, access, flag: there)
    monkeypatch.setattr(remote, "table_images", lambda tables, access, flag: [table.where for table in tables])
    monkeypatch.setattr(remote, "listed_images", lambda paths, *rest: paths)
    monkeypatch.setattr(remote, "file_system", lambda url, access: None)
    found = remote.remote_images(source, Access(split=split), remote.Survey(), None, "--data.path")
    if source == "hf:o/n":
        assert found == [f"{CONVERTED}/{names[2 if split == 'test' else 0]}"]
    lines = [line for line in caplog.messages if "the rest is missing" in line]
    assert [line.startswith(f"{source}: {partial} holds only") for line in lines] == [True] * (partial is not None)


def test_labeled_images_of_the_hub_are_of_all_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes' own split is that of the files, so they need both."""
    found: list[str] = []

    def table_images(tables: list[Table], access: Access, flag: str) -> list[str]:
        found.extend(table.name for table in tables)
        raise UserError("enough")

    names = ["default/train/0.parquet", "default/validation/0.parquet"]
    monkeypatch.setattr(hub, "listed", lambda url, access, flag: [Listed(f"{url}/{one}", one, 1, "v") for one in names])
    monkeypatch.setattr(remote, "table_images", table_images)
    with pytest.raises(UserError, match="enough"):
        class_parts("hf:o/n")
    assert found == names
    with pytest.raises(UserError, match="enough"):
        class_parts("hf:o/n", access=Access(split="train"))
    assert found == [*names, names[0]]


def test_a_dataset_that_the_hub_has_not_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    def listed(url: str, access: Access, flag: str) -> list[Listed]:
        if url == CONVERTED:
            raise UserError("gone") from fetching.FetchError(url, "is not there", True)
        assert url == "hf://datasets/o/n"
        return [Listed(f"{url}/1.png", "1.png", 1, "v")]

    monkeypatch.setattr(hub, "listed", listed)
    assert list(collect("hf:o/n").names) == ["1.png"]


def test_the_cache_folder_is_checked_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--data.cache_dir .*/file cannot be written to"):
        collect("memory://x", access=Access(str(tmp_path / "file")))


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

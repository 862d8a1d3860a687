"""The same images by folder, URL and table are the same samples, and what goes wrong on the way is one line."""

import shutil
import threading
import uuid
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from fcmae.data.sources.archives import index as archive_index
from fcmae.data.sources.archives.member import Found
from fcmae.data.sources.digest import digest
from fcmae.data.sources.entries import Survey
from fcmae.data.sources.files import collect
from fcmae.data.sources.image_set import Joined, Labeled
from fcmae.data.stores.access import Access
from fcmae.errors import StoreError, UserError
from tests.fcmae.data.sources.packed import make_tar, make_zip
from tests.fcmae.data.sources.tabled import dataset, table_of
from tests.fcmae.data.stores.server import Server


@pytest.fixture
def image_folder(image_folder: Path, tmp_path: Path) -> Path:
    """A copy, since archives and tables are put beside the images."""
    return shutil.copytree(image_folder, tmp_path / "images")


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
    is_far = kind not in ("table", "file://")
    assert [images.is_far, images.subset([0]).is_far, Joined([folder, images]).is_far] == [is_far] * 3
    assert Labeled(images, np.zeros(len(images), int)).is_far == is_far
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


@pytest.mark.parametrize("kilobytes", [(1200,), (3000, 40), (600, 1700)])
def test_large_members_of_a_tar_are_fetched_once(
    server: Server, access: Access, tmp_path: Path, kilobytes: tuple[int, ...]
) -> None:
    """The index passes over them; no byte but those around headers is sent twice."""
    random, folder = np.random.default_rng(0), tmp_path / "large"
    folder.mkdir()
    for n in range(6):
        np.save(folder / f"{n}.npy", random.integers(0, 255, (10, 100 * kilobytes[n % len(kilobytes)]), np.uint8))
    tar = make_tar(server.root / "x.tar", folder)
    access = replace(access, timeout=5, cache_size="100MB")
    images = collect(f"{server.url}/x.tar", access=access, leave_out=tmp_path / "run")
    indexed = server.sent
    assert [image.read_bytes() for image in images] == [path.read_bytes() for path in sorted(folder.iterdir())]
    small = sum(size for path in folder.iterdir() if (size := path.stat().st_size) < 2**20)
    assert indexed < small + 6 * 10**5
    assert server.sent < 1.07 * tar.stat().st_size


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
        ("http://[bad/x.jpg", "--data.path http://[bad/x.jpg is not a URL: Invalid IPv6 URL"),
        ("http://u:secret@[bad/x.tar?key=secret", "--data.path http://[bad/x.tar is not a URL: Invalid IPv6 URL"),
        ("https:///x.jpg", "--data.path https:///x.jpg is not a URL: it names no host"),
        ("http://h:99999/x/", "--data.path http://h:99999/x/ is not a URL: Port out of range"),
        ("ftp://127.0.0.1:9/x.tar", "ftp://127.0.0.1:9/x.tar cannot be reached: Connection refused"),
        ("zip://nowhere.zip", "zip://nowhere.zip cannot be reached: is not there"),
        ("reference://x", "reference://x: ReferenceFileSystem"),
        ("hf:name", "--data.path hf:name is not the name of a dataset; give hf:owner/name"),
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
    with pytest.raises(UserError, match=r"^--data.path .*list.txt: http://\[bad/2.png is not a URL: Invalid IPv6 URL$"):
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
    assert "1 further name (" in caplog.text
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


def test_the_cache_folder_is_checked_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--data.cache_dir .*/file cannot be written to"):
        collect("memory://x", access=Access(str(tmp_path / "file")))

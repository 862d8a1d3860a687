"""An image counts once, whatever it is called: in lists, by URL, in archives, in tables, in several sources."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from fcmae.data.classes import class_folder
from fcmae.data.sources.files import collect
from fcmae.data.sources.same import first_of_each, keys, number_of, places_once
from fcmae.data.stores.access import Access
from tests.fcmae.data.sources.packed import folder_of_images, make_tar
from tests.fcmae.data.sources.tabled import table_of
from tests.fcmae.data.stores.server import Server, serving

PNGS = ("cat/1.png", "cat/10.png", "dog/é.png")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Of a folder that has the same images in files, archives, tables and lists."""
    folder = folder_of_images(tmp_path / "w" / "im")
    make_tar(tmp_path / "w" / "a.tar", folder, PNGS)
    make_tar(tmp_path / "w" / "all.tar", folder)
    table_of(folder, tmp_path / "w" / "b.parquet", list(PNGS))
    table_of(folder, tmp_path / "w" / "labeled.parquet", [*PNGS, "cat/2.jpg"], label=["a", "b", "a", "b"])
    (tmp_path / "links").mkdir()
    for name in ("a.tar", "b.parquet"):
        (tmp_path / "links" / name).symlink_to(tmp_path / "w" / name)
    with serving(tmp_path / "w") as found:
        urls = [f"{found.url}/im/{name}" for name in ("cat/1.png", "cat/10.png", "cat/1.png")]
        (tmp_path / "list.txt").write_text("\n".join([*urls, "w/im/cat/2.jpg", "w/im/cat/2.jpg"]))
        parquet.write_table(pa.table({"path": [*urls, "im/cat/2.jpg", "im/cat/2.jpg"]}), tmp_path / "w" / "p.parquet")
        yield found


@pytest.mark.parametrize(
    ("sources", "images", "repeated"),
    [
        ("list.txt", 3, 2),
        ("w/p.parquet", 3, 2),
        ("URL/im/ URL/im/", 6, 6),
        ("URL/im/cat/1.png URL/im/ w/im", 6 + 6, 1),
        ("URL/im/ list.txt", 6 + 1, 2 + 2),
        ("w/im list.txt", 6 + 2, 2 + 1),
        ("list.txt w/im/cat", 3 + 2, 2 + 1),
        ("w/a.tar w/a.tar", 3, 1),
        ("w/a.tar links/a.tar", 3, 1),
        ("w/a.tar w/im w/a.tar", 3 + 6, 3),
        ("w/a.tar w/im w/all.tar w/a.tar", 3 + 6 + 6, 3),
        ("URL/a.tar w/im URL/a.tar", 3 + 6, 3),
        ("w/b.parquet links/b.parquet", 3, 1),
        ("w/b.parquet w/im w/b.parquet", 3 + 6, 3),
        ("URL/b.parquet w/im URL/b.parquet", 3 + 6, 3),
        ("w/im/cat w/im w/im/cat/1.png", 6, 4),
    ],
)
def test_an_image_counts_once(
    tmp_path: Path, server: Server, access: Access, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
    sources: str, images: int, repeated: int,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO")
    found = collect([one.replace("URL", server.url) for one in sources.split()], access=access)
    assert len(found) == len(list(found.names)) == images
    assert len({str(one) for one in found}) == images
    assert len(np.unique(found.identities())) == images
    names, verb = ("name", "is") if repeated == 1 else ("names", "are")
    assert f"{repeated} further {names} (links, or given twice) of files in the set {verb} left out" in caplog.text


def test_of_several_sources_the_first_keeps_an_image(tmp_path: Path, server: Server, access: Access) -> None:
    """Names have the number of their source also where one of them has nothing left."""
    found = collect([f"{server.url}/im/cat/", f"{server.url}/im/cat/1.png", f"{server.url}/im/"], access=access)
    assert [name.partition("/")[0] for name in found.names] == ["0"] * 3 + ["2"] * 3
    assert sorted(name.rpartition("/")[2] for name in list(found.names)[3:]) == ["3.tif", "b.npy", "é.png"]
    assert [one.read_bytes() for one in found[:2]] == [  # type: ignore[union-attr]
        (tmp_path / "w" / "im" / "cat" / name).read_bytes() for name in ("1.png", "2.jpg")
    ]


@pytest.mark.parametrize(
    "sources", ["URL/all.tar links/all.tar URL/all.tar", "URL/labeled.parquet w/labeled.parquet URL/labeled.parquet"]
)
def test_labeled_images_count_once(
    tmp_path: Path, server: Server, access: Access, monkeypatch: pytest.MonkeyPatch, sources: str
) -> None:
    """They would be trained on and validated on."""
    monkeypatch.chdir(tmp_path)
    os.symlink(tmp_path / "w" / "all.tar", tmp_path / "links" / "all.tar")
    one, two, _ = (source.replace("URL", server.url) for source in sources.split())
    each = [class_folder(given, test_share=0.5, access=access) for given in (one, [one, two, one])]
    single, joined = ([files.labels for files in splits] for splits in each)
    # by URL and from the disk they are two files
    assert sum(map(len, joined)) == 2 * sum(map(len, single))
    counted = Counter(np.concatenate(joined).tolist())
    assert counted == {label: 2 * count for label, count in Counter(np.concatenate(single).tolist()).items()}


def test_a_number_is_that_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "link").symlink_to("a")
    assert number_of(tmp_path / "a") == number_of(str(tmp_path / "link")) != number_of(tmp_path / "gone")
    assert number_of("s3://b/a") != number_of("s3://b/b")
    assert number_of("s3://b/a") == 17147913178028384400  # in all processes


def test_places_of_sets_without_and_with_shared_images() -> None:
    sets = [np.array(one, np.uint64) for one in ([7, 5], [9], [5, 3, 7, 2], [])]
    assert [one.tolist() for one in places_once(sets)] == [[0, 1], [0], [1, 3], []]
    assert [one.tolist() for one in places_once(sets[:2])] == [[0, 1], [0]]


def test_keys_tell_places_and_holders_apart() -> None:
    numbers = np.array([number_of(f"s3://b/{n}") for n in range(100)], np.uint64)
    found = keys(np.repeat(numbers, 1000), np.tile(np.arange(1000), 100))
    assert len(np.unique(found)) == 100_000


def test_the_first_of_each_archive_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "link").symlink_to("a")
    given = [f"{tmp_path}/a", "s3://b/c", f"{tmp_path}/link", "s3://b/c", "s3://b/a"]
    assert first_of_each(given, str) == [f"{tmp_path}/a", "s3://b/c", "s3://b/a"]


def test_a_zarr_image_counts_once(tmp_path: Path, server: Server, access: Access) -> None:
    """Its folder is found by its metadata."""
    (tmp_path / "z" / "im.zarr").mkdir(parents=True)
    scales = {"multiscales": [{"axes": [], "datasets": [{"path": "0"}]}]}
    (tmp_path / "z" / "im.zarr" / ".zattrs").write_text(json.dumps(scales))
    (tmp_path / "l.txt").write_text(f"{server.url}/im/cat/1.png\nz/im.zarr\n")
    assert len(collect([f"{tmp_path}/l.txt", f"{tmp_path}/z"], access=access)) == 2


def test_bytes_of_some_rows(tmp_path: Path, server: Server, access: Access) -> None:
    """A row has no size of its own; each had that of the whole file."""
    found = collect([f"{tmp_path}/w/b.parquet", f"{tmp_path}/list.txt", f"{tmp_path}/w/labeled.parquet"], access=access)
    whole = sum((tmp_path / "w" / name).stat().st_size for name in ("b.parquet", "labeled.parquet"))
    assert found.total_bytes - (tmp_path / "w/im/cat/2.jpg").stat().st_size == whole
    rows = collect(f"{tmp_path}/w/b.parquet")
    assert rows.subset([0]).total_bytes == round((tmp_path / "w/b.parquet").stat().st_size / 3)

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from fcmae.data.rows.columns import class_names
from fcmae.data.rows.files import is_row_file, open_rows
from fcmae.data.stores import fetching
from fcmae.data.stores.access import Access
from fcmae.errors import UserError
from tests.fcmae.data.stores.server import serving

IMAGES = [b"image %d" % n * 50 for n in range(11)]


def table() -> Any:
    images = [{"bytes": one, "path": f"{n}.png"} for n, one in enumerate(IMAGES)]
    features = b'{"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}'
    columns = {"image": [*images, None], "label": [0, 1] * 6, "raw": [*IMAGES, b""], "path": ["x.png"] * 12}
    return pa.table(columns).replace_schema_metadata({b"huggingface": features})


def written(folder: Path, kind: str) -> str:
    found = table()
    if kind == "parquet":
        parquet.write_table(found, folder / "a.parquet", row_group_size=4)
        return str(folder / "a.parquet")
    new = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
    with pa.OSFile(str(folder / f"{kind}.arrow"), "wb") as sink, new(sink, found.schema) as writer:
        writer.write_table(found, max_chunksize=5)
    return str(folder / f"{kind}.arrow")


@pytest.fixture(params=["1MB", "0"], ids=["cache", "no-cache"])
def access(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Access:
    monkeypatch.setattr(fetching, "WAITS", ())
    return Access(str(tmp_path / "cache"), request.param, timeout=5)


@pytest.mark.parametrize("column", [None, "raw"])
@pytest.mark.parametrize("kind", ["parquet", "stream", "file"])
def test_rows_by_number(tmp_path: Path, access: Access, kind: str, column: str | None) -> None:
    rows = pickle.loads(pickle.dumps(open_rows(written(tmp_path, kind), column, access)))
    assert rows.count == 12
    for row in (10, 0, 3, 4, 10, 7):
        assert rows.image(row) == IMAGES[row]
    with pytest.raises(OSError, match="the row holds no image"):
        rows.image(11)
    assert rows.values("label") == [0, 1] * 6
    assert class_names(rows.schema, "label") == ["cat", "dog"]
    assert class_names(rows.schema, "path") is None


def test_a_group_of_rows_is_read_once(tmp_path: Path) -> None:
    rows = open_rows(written(tmp_path, "parquet"), None, Access(str(tmp_path / "cache"), "1MB"))
    assert rows.image(5) == IMAGES[5]
    Path(rows.where).unlink()
    assert rows.image(4) == IMAGES[4]
    with pytest.raises(FileNotFoundError):
        rows.image(0)


def test_by_url(tmp_path: Path, access: Access) -> None:
    name = Path(written(tmp_path, "parquet")).name
    with serving(tmp_path) as server:
        rows = open_rows(f"{server.url}/{name}", None, access)
        assert rows.image(9) == IMAGES[9]
        server.failing = {"": "break"}
        with pytest.raises(fetching.FetchError, match="the connection broke off"):
            replace(rows, access=Access(None, "0", 1)).image(0)
        with pytest.raises(UserError, match=r"/a.parquet cannot be fetched: the connection broke off"):
            open_rows(f"{server.url}/{name}", None, Access(None, "0", 1))
    with pytest.raises(UserError, match=r"https://h/a.arrow: Arrow files are read from a local disk"):
        open_rows("https://h/a.arrow", None, access)


@pytest.mark.parametrize("kind", ["parquet", "stream"])
def test_structs_without_bytes_are_paths(tmp_path: Path, access: Access, kind: str) -> None:
    images = [{"bytes": None, "path": f"{n}.png"} for n in range(3)]
    found = pa.table({"image": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))})
    file = tmp_path / f"a.{'parquet' if kind == 'parquet' else 'arrow'}"
    if kind == "parquet":
        parquet.write_table(found, file)
    else:
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, found.schema) as writer:
            writer.write_table(found)
    rows = open_rows(str(file), None, access)
    assert rows.column is not None
    assert (rows.column.path, rows.column.has_bytes) == ("image.path", False)
    assert rows.values("image.path") == ["0.png", "1.png", "2.png"]


def test_what_tells_contents_apart(tmp_path: Path, access: Access) -> None:
    """The digest of a set looks at this in place of reading rows."""
    first = open_rows(written(tmp_path, "parquet"), None, access).identity
    assert open_rows(written(tmp_path, "parquet"), None, access).identity == first
    IMAGES[3], before = b"other   " * 50, IMAGES[3]
    try:
        assert open_rows(written(tmp_path, "parquet"), None, access).identity != first
    finally:
        IMAGES[3] = before


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("a.parquet", b"", "is no Parquet file, or is damaged: it is too short"),
        ("a.parquet", b"PAR1" + b"junk" * 10, "is no Parquet file, or is damaged: "),
        ("a.arrow", b"", "is no Arrow file, or is damaged: "),
        ("a.arrow", b"ARROW1" + b"junk" * 10, "is no Arrow file, or is damaged: "),
        ("a.parquet", None, "cannot be read: No such file or directory"),
    ],
)
def test_damage(tmp_path: Path, access: Access, name: str, contents: bytes | None, message: str) -> None:
    if contents is not None:
        (tmp_path / name).write_bytes(contents)
    with pytest.raises(UserError) as caught:
        open_rows(str(tmp_path / name), None, access)
    assert str(caught.value).startswith(f"--data.path {tmp_path / name} {message}")
    assert "\n" not in str(caught.value)


def test_a_damaged_group_is_an_error_of_its_rows(tmp_path: Path, access: Access) -> None:
    file = Path(written(tmp_path, "parquet"))
    data = bytearray(file.read_bytes())
    data[100:200] = bytes(100)
    file.write_bytes(data)
    rows = open_rows(str(file), None, access)
    with pytest.raises(OSError, match="snappy") as caught:
        rows.image(0)
    assert getattr(caught.value, "errno", None) is None  # the file's fault, not the disk's
    assert rows.image(10) == IMAGES[10]


@pytest.mark.parametrize(("wanted", "what"), [("label", "a column of other values"), ("foo", "not there")])
def test_columns_that_are_none(tmp_path: Path, access: Access, wanted: str, what: str) -> None:
    with pytest.raises(UserError, match=rf"the column {wanted} \(--data.column\) is {what}; .*image, label, raw, path"):
        open_rows(written(tmp_path, "parquet"), wanted, access)


def test_endings() -> None:
    assert [is_row_file(name) for name in ("a.PARQUET", "a.pq", "a.arrow", "a.csv", "a")] == [True] * 3 + [False] * 2

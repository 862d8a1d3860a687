"""Labeled images in tables and by URL: the classes of the folder they were made of."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from fcmae.data.classes import class_folder, class_parts
from fcmae.data.parts import may_hold_classes
from fcmae.data.pixel_reading import PixelReading
from fcmae.data.rows.images import RowImage
from fcmae.data.sources.digest import digest
from fcmae.data.sources.files import collect
from fcmae.data.stores.access import Access
from fcmae.errors import UserError
from fcmae.finetuning.config import FinetuneDataConfig
from fcmae.finetuning.labeled_images import LabeledSet
from fcmae.finetuning.labels import labeled_set
from fcmae.runs.layout import METRICS, PICTURES, is_run_folder
from tests.fcmae.data.sources.packed import folder_of_images
from tests.fcmae.data.stores.server import serving

FEATURES = b'{"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}'


def table_of(folder: Path, file: Path, kind: str = "numbers", label: str = "label") -> Path:
    """A table of a folder of classes; labels are numbers with names, or words."""
    names = list(collect(folder).names)
    words = [name.partition("/")[0] for name in names]
    labels = [["cat", "dog"].index(word) for word in words] if kind == "numbers" else words
    found = pa.table({"image": [{"bytes": (folder / n).read_bytes(), "path": n} for n in names], label: labels})
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(found.replace_schema_metadata({b"huggingface": FEATURES} if kind == "numbers" else None), file)
    return file


def access(tmp_path: Path) -> Access:
    return Access(str(tmp_path / "cache"), "10MB", timeout=5)


def contents(found: LabeledSet) -> list[tuple[str, int, bytes]]:
    return [
        (found.classes[label], image.height, image.decode().numpy().tobytes())
        for part in (found.train, found.val)
        for n, label in enumerate(part.labels)
        for image in [part.open(n, PixelReading.of(3))]
    ]


@pytest.mark.parametrize("kind", ["numbers", "words", "by URL", "folder by URL"])
def test_the_same_labeled_images(tmp_path: Path, kind: str) -> None:
    folder = folder_of_images(tmp_path / "www" / "set")
    expected = labeled_set(FinetuneDataConfig(path=str(folder)), 0)
    table = table_of(folder, tmp_path / "www" / "t.parquet", "words" if kind == "words" else "numbers")
    with serving(tmp_path / "www") as server:
        path = {"by URL": f"{server.url}/t.parquet", "folder by URL": f"{server.url}/set"}.get(kind, str(table))
        found = labeled_set(FinetuneDataConfig(path=path, cache_dir=str(tmp_path / "cache"), timeout=5), 0)
        assert found.classes == expected.classes == ("cat", "dog")
        assert np.array_equal(found.train.labels, expected.train.labels)
        assert contents(found) == contents(expected)


def test_splits_by_the_names_of_files(tmp_path: Path) -> None:
    folder = folder_of_images(tmp_path / "set")
    table_of(folder, tmp_path / "t" / "train-00000-of-00001.parquet")
    table_of(folder, tmp_path / "t" / "validation-00000-of-00001.parquet")
    train, val = class_parts(str(tmp_path / "t"), access=access(tmp_path))
    assert {name: len(places) for name, places in train.places.items()} == {"cat": 3, "dog": 3}
    assert all(name.startswith("train") for name in train.images.names)
    assert all(name.startswith("validation") for name in val.images.names)


def test_labels_that_are_missing_or_many(tmp_path: Path) -> None:
    folder = folder_of_images(tmp_path / "set")
    table = table_of(folder, tmp_path / "t.parquet", label="species")
    assert may_hold_classes(str(table))
    with pytest.raises(UserError, match=r"t.parquet has no column of labels; name it label, or give --data.label_col"):
        class_parts(str(table))
    with pytest.raises(UserError, match=r"has no column kind \(--data.label_column\); its columns are image, species"):
        class_parts(str(table), access=Access(label_column="kind"))
    assert list(class_parts(str(table), access=Access(label_column="species"))[0].places) == ["0", "1"]
    image = {"bytes": b"x", "path": None}
    for value, what in (
        (None, "no label"),
        ([1, 2], "several labels"),
        (float("nan"), "the label nan"),
        ("nan", "the label nan"),
        ("NA", "the label NA"),
    ):
        parquet.write_table(pa.table({"image": [image], "label": [value]}), table)
        with pytest.raises(UserError, match=rf"row 0 has {what} in the column label"):
            class_parts(str(table))


def test_tables_in_folders_of_splits(tmp_path: Path) -> None:
    """The column of labels counts, and not the names of the files."""
    folder = folder_of_images(tmp_path / "set")
    for name in ("train/0.parquet", "train/1.parquet", "val/0.parquet"):
        table_of(folder, tmp_path / "t" / name, "words", label="species")
    with pytest.raises(UserError, match=r"t/train has no column of labels; name it label, or give --data.label_column"):
        class_parts(str(tmp_path / "t"))
    parts = class_folder(str(tmp_path / "t"), access=Access(label_column="species"))
    assert [part.labels.tolist() for part in parts] == [[0] * 6 + [1] * 6, [0] * 3 + [1] * 3]


def test_the_column_that_is_named_tells_what_a_table_is(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"one": [b"1"], "two": [b"2"], "text": ["a.png"]}), file)
    assert not may_hold_classes(str(file))
    assert may_hold_classes(str(file), Access(column="two"))
    assert not may_hold_classes(str(file), Access(column="text"))


@pytest.mark.parametrize("kind", ["several", "a range", "a pattern"])
def test_several_tables(tmp_path: Path, kind: str) -> None:
    folder = folder_of_images(tmp_path / "set")
    files = [str(table_of(folder, tmp_path / "t" / f"{n}" / "data.parquet")) for n in range(2)]
    source = {"several": files, "a range": f"{tmp_path}/t/{{0..1}}/data.parquet"}.get(kind, f"{tmp_path}/t/*/*.parquet")
    found = collect(source)
    assert list(found.names) == [f"{n}/data.parquet/{row}" for n in range(2) for row in range(6)]
    assert isinstance(source, list) or may_hold_classes(source)
    chosen = collect(source, access=Access(split="1"))
    assert list(chosen.names) == [f"1/data.parquet/{row}" for row in range(6)]


def test_tables_of_runs_are_left_out(tmp_path: Path) -> None:
    folder = folder_of_images(tmp_path / "set")
    table_of(folder, tmp_path / "t" / "a.parquet")
    table_of(folder, tmp_path / "t" / "run" / "predictions.parquet")
    (tmp_path / "t" / "run" / METRICS).write_text("")
    (tmp_path / "t" / "run" / PICTURES).mkdir()
    assert is_run_folder(tmp_path / "t" / "run")
    assert {name.partition("/")[0] for name in collect(str(tmp_path / "t")).names} == {"a.parquet"}


@pytest.mark.parametrize("marks", [{"state.json": b'{"_data_files": [{"filename": "data-0.arrow"}]}'}, {}])
def test_results_of_map_are_no_images(
    tmp_path: Path, marks: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """``load_from_disk(d).map(…)`` leaves them in d; state.json, or of a cache the name, tells them apart."""
    data = pa.table({"image": [b"1", b"2"]})
    for name in ("data-0.arrow", "cache-12ab.arrow"):
        with pa.OSFile(str(tmp_path / name), "wb") as sink, pa.ipc.new_stream(sink, data.schema) as writer:
            writer.write_table(data)
    for name, content in {"dataset_info.json": b"{}", **marks}.items():
        (tmp_path / name).write_bytes(content)
    with caplog.at_level("INFO"):
        assert list(collect(str(tmp_path)).names) == ["data-0.arrow/0", "data-0.arrow/1"]
    assert "passed over, no images that can be read: " in caplog.text
    assert "1 .arrow" in caplog.text  # the other one is used
    data_file = (tmp_path / "data-0.arrow").rename(tmp_path / "data-0.no")
    with pytest.raises(UserError, match=r"holds no images; .*1 \.arrow"):
        collect(str(tmp_path))
    data_file.rename(tmp_path / "data-0.arrow")
    for mark in tmp_path.glob("*.json"):
        mark.write_text("of another program")
        mark.rename(tmp_path / "other.json")
    assert len(collect(str(tmp_path))) == 4


def test_a_damaged_table_is_an_error_of_its_images(tmp_path: Path) -> None:
    """Whatever pyarrow raises: pack, stats and the digest expect an OSError of a damaged image."""
    image = collect(str(table_of(folder_of_images(tmp_path / "set"), tmp_path / "t.parquet")))[0]
    assert isinstance(image, RowImage)
    for error in (pa.ArrowInvalid("bad\n page"), pa.ArrowNotImplementedError("bad\n page"), IndexError("bad page")):
        broken = RowImage(Broken(error), 0)  # type: ignore[arg-type]
        with pytest.raises(OSError, match=r"^damaged: bad page$") as caught:
            broken.read_bytes()
        assert caught.value.errno is None


class Broken:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def image(self, row: int) -> bytes:
        raise self.error


def test_other_rows_of_an_arrow_file_are_another_set(tmp_path: Path) -> None:
    found = []
    for value in (b"1111", b"2222"):
        table = pa.table({"image": [value]})
        with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        found.append(digest(collect(str(tmp_path / "a.arrow"))).split()[-1])
    assert found[0] != found[1]


def test_a_table_of_paths_is_none_of_images(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"path": ["a.png"], "label": [1]}), tmp_path / "t.parquet")
    assert not may_hold_classes(str(tmp_path / "t.parquet"))

"""What a table says of images to predict: unusual tables lose no prediction, and score nothing that they should not."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from fcmae.analysis.accuracy import Accuracy
from fcmae.errors import UserError
from fcmae.predict import Predicted, predict
from tests.fcmae.data.stores.server import serving
from tests.fcmae.finetuning.conftest import other


@pytest.fixture(scope="module")
def found(found: dict[str, str]) -> dict[str, str]:
    """Path below the folder → predicted label, of six images."""
    return {name: label for name, label in found.items() if not name.endswith("2.png")}


@pytest.fixture
def scored(run: Path) -> Callable[..., Predicted]:
    def of(source: object, **data: Any) -> Predicted:
        return predict(run, str(source), num_workers=0, data=data)

    return of


def csv_of(file: Path, header: str, rows: list[str]) -> Path:
    file.write_text("\n".join([header, *rows]))
    return file


def parquet_of(file: Path, **columns: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(columns), file)
    return file


Scored = Callable[..., Predicted]
Found = dict[str, str]


def contents(images: Path, found: Found) -> list[bytes]:
    return [(images / name).read_bytes() for name in found]


def test_a_column_of_labels_that_cannot_be_read_loses_no_prediction(
    scored: Scored, images: Path, found: Found, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    latin = pyarrow.StringArray.from_buffers(
        6, pyarrow.py_buffer(b"".join(n.to_bytes(4, "little") for n in range(7))), pyarrow.py_buffer(b"\xe9" * 6)
    )
    file = parquet_of(tmp_path / "t.parquet", image=contents(images, found), label=latin)
    assert len(scored(file).paths) == 6
    (line,) = [one for one in caplog.messages if "not used" in one]
    assert line.startswith(f"labels of the source are not used: {file}: the column label cannot be read: ")
    with pytest.raises(UserError, match=r"t\.parquet: the column label cannot be read"):
        scored(file, label_column="label")


def test_masks_are_no_labels(
    scored: Scored, images: Path, found: Found, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A column of another usual name may hold them all the same."""
    masks = [{"bytes": b"mask", "path": "m.png"}] * 6
    columns = {"image": contents(images, found), "label": masks, "category": list(found.values())}
    file = parquet_of(tmp_path / "t.parquet", **columns)
    with_masks = scored(file, column="image")
    assert (with_masks.accuracy, with_masks.truth) == (Accuracy(6, 6), f"label in {file}, column category")
    with pytest.raises(
        UserError, match=r"t.parquet: the column label holds struct<.*>, neither names nor numbers of classes"
    ):
        scored(file, column="image", label_column="label")
    del columns["category"]
    assert scored(parquet_of(tmp_path / "m.parquet", **columns), column="image").accuracy is None
    (line,) = [one for one in caplog.messages if "not used" in one]
    assert line.startswith(
        f"labels of {tmp_path}/m.parquet are not used: label holds struct<bytes: binary, path: string>"
    )


def test_only_images_of_the_split_are_scored_by_folders(
    scored: Scored, images: Path, found: Found, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Labels that do not fit, or none, are no reason to score what was trained on."""
    of = ["train", "test"] * 3
    right = sum(
        name.startswith(label) for (name, label), split in zip(found.items(), of, strict=True) if split == "test"
    )
    rows = list(zip(found, of, strict=True))
    bare = csv_of(tmp_path / "bare.csv", "path,split", [f"{images}/{name},{split}" for name, split in rows])
    wrong = csv_of(tmp_path / "wrong.csv", "path,label,split", [f"{images}/{name},x,{split}" for name, split in rows])
    for result in (scored(bare), scored(wrong), scored(bare, split_column="split")):
        assert (result.accuracy, len(result.paths)) == (Accuracy(right, 3), 6)
        assert result.truth == "class of the image's folder, split test"
    trained = [f"{images}/{name},{name.split('/')[0]},train" for name, _ in rows]
    result = scored(csv_of(tmp_path / "t.csv", "path,label,split", trained))
    correct = sum(name.startswith(label) for name, label in found.items())
    said = f"label in {tmp_path}/t.csv, column label, split train"
    assert (result.accuracy, result.truth) == (Accuracy(correct, 6), said)
    with pytest.raises(UserError, match=r"IMAGES .*t\.csv: no image is of a known split, but of blue, green, red"):
        scored(tmp_path / "t.csv", split_column="label")
    packed = tmp_path / "packed"
    for name, split in rows:
        target = packed / split / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((images / name).read_bytes())
    listed = csv_of(tmp_path / "train.csv", "path,label", [f"{packed}/{split}/{name},x" for name, split in rows])
    for source, count, split in ((packed, 3, "test"), (listed, 6, "train")):
        result = scored(source)
        assert result.accuracy is not None
        assert (result.accuracy.total, result.truth) == (count, f"class of the image's folder, split {split}")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["validation-0", "test-0"], "test"),
        (["train-0", "validation-0"], "validation"),
        (["training_sets/test-0", "training_sets/train-0"], "test"),
        (["train/0", "val/0"], "val"),
        (["train-0"], "train"),
        (["train-0", "other"], "train"),
        (["a", "b"], ""),
    ],
)
def test_splits_by_the_names_of_files(
    files: list[str], expected: str, scored: Scored, images: Path, found: Found, tmp_path: Path
) -> None:
    """Of the split that counts one label is wrong, of the others all."""
    names, pixels = list(found), contents(images, found)
    each = 6 // len(files)
    for n, file in enumerate(files):
        part = range(n * each, n * each + each)
        tells = expected and expected in file
        labels = [found[names[k]] if tells and k != part[0] else other(found[names[k]]) for k in part]
        parquet_of(tmp_path / "set" / f"{file}.parquet", image=[pixels[k] for k in part], label=labels)
    result = scored(tmp_path / "set")
    wanted = Accuracy(each - 1, each) if expected else Accuracy(0, 6)
    assert (result.accuracy, len(result.paths)) == (wanted, 6)
    if expected:
        assert result.truth == f"label in {tmp_path}/set, column label, split {expected}"
        named = scored(tmp_path / "set", split=expected)
        assert (named.accuracy, named.truth.endswith(f"split {expected}, column label")) == (wanted, True)


def test_rows_that_do_not_count_may_lack_labels(
    scored: Scored, images: Path, found: Found, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor need they be of images; a split without any label is not the one to score."""
    rows = [f"{images}/{name},{label}" for name, label in found.items()]
    bare = [f"{images}/{name}," for name in found]
    tested = csv_of(tmp_path / "a.csv", "path,label,split", [f"{rows[0]},test", f"{bare[1]},train", ",red,test"])
    assert scored(tested).accuracy == Accuracy(1, 1)
    validated = csv_of(tmp_path / "b.csv", "path,label,split", [f"{rows[0]},val", f"{bare[1]},test", f"{rows[2]},val"])
    assert scored(validated).truth.endswith("b.csv, column label, split val")
    assert "not used" not in caplog.text
    twice = csv_of(tmp_path / "c.csv", "path,label,split", [f"{rows[0]},train", f"{rows[0]},test", f"{rows[1]},test"])
    assert scored(twice).accuracy == Accuracy(2, 2)
    assert "c.csv: 1 image is of the split test and of train; the score tells little" in caplog.text
    name, label = next(iter(found.items()))
    both = csv_of(tmp_path / "d.csv", "path,label", [f"{images}/{name},{label}", f"{images}/{name},{other(label)}"])
    with pytest.raises(UserError, match=r"d.csv: the image in row 2 \(.*\) has other labels in another row"):
        scored(both, label_column="label")


def test_tables_of_paths(scored: Scored, images: Path, found: Found, tmp_path: Path) -> None:
    """Parquet; lists of one label each; a table by file:// or as a range; paths that are URLs."""
    labels = [other(label) if n == 1 else label for n, label in enumerate(found.values())]
    paths = [str(images / name) for name in found]
    table = parquet_of(tmp_path / "t.parquet", path=paths, label=labels)
    assert scored(table).accuracy == Accuracy(5, 6)
    assert scored(
        parquet_of(tmp_path / "l.parquet", path=paths, tag=[[one] for one in labels]), label_column="tag"
    ).accuracy == Accuracy(5, 6)
    with pytest.raises(
        UserError, match=r"--data\.label_column nope is not a column of .*t\.parquet; it has path, label"
    ):
        scored(table, label_column="nope")
    rows = [f"{path},{label}" for path, label in zip(paths, labels, strict=True)]
    file = csv_of(tmp_path / "t1.csv", "path,label", rows)
    assert scored(file.as_uri()).accuracy == scored(tmp_path / "t{1..1}.csv").accuracy == Accuracy(5, 6)
    with serving(images) as server:
        remote = [f"{server.url}/{name},{label}" for name, label in zip(found, labels, strict=True)]
        far = csv_of(tmp_path / "far.csv", "url,path,label", [f"x,{row}" for row in remote])
        assert scored(far, cache_dir=str(tmp_path / "cache")).accuracy == Accuracy(5, 6)


def test_a_named_column_is_not_passed_over(scored: Scored, images: Path, found: Found, tmp_path: Path) -> None:
    file = parquet_of(tmp_path / "t.parquet", image=contents(images, found), label=list(found.values()))
    with pytest.raises(
        UserError, match=r"^--data\.split_column nope is for one table of paths, or for tables of images; .* is neither"
    ):
        scored(images, split_column="nope")
    with pytest.raises(
        UserError, match=r"^--data\.split_column nope is not a column of .*t\.parquet; it has image, label"
    ):
        scored(file, split_column="nope")
    with pytest.raises(UserError, match=r"^.*t\.parquet has no column nope \(--data\.label_column\); its columns are"):
        scored(file, label_column="nope")
    headless = csv_of(tmp_path / "h.csv", f"{images}/red/0.png,y", [f"{images}/red/1.png,y"])
    with pytest.raises(UserError, match=r"^IMAGES .*h\.csv: its first row has an image, .*red/0\.png, and no names of"):
        scored(headless, label_column="label")
    assert len(scored(headless).paths) == 2


def test_splits_of_shards_and_of_columns(
    scored: Scored, images: Path, found: Found, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The names of tars tell them; a column may hold numbers with names; one that only some files have says nothing."""
    pixels, labels = contents(images, found), list(found.values())
    for shard, part in (("train-0", range(3)), ("test-0", range(3, 6))):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as tar:
            for n in part:
                for ending, data in (("png", pixels[n]), ("cls", (labels[n] if n > 3 else other(labels[n])).encode())):
                    info = tarfile.TarInfo(f"{n}.{ending}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    trained = tmp_path / "train-0.tar"
    for source, accuracy, split in ((tmp_path, Accuracy(2, 3), "test"), (trained, Accuracy(0, 3), "train")):
        result = scored(source)
        assert (result.accuracy, result.truth) == (accuracy, f"label in {source}, split {split}")
    numbers = pyarrow.table({"image": pixels, "label": labels, "split": [0, 1] * 3})
    features = {"split": {"names": ["train", "test"], "_type": "ClassLabel"}}
    info = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    parquet.write_table(numbers.replace_schema_metadata(info), tmp_path / "n.parquet")
    assert scored(tmp_path / "n.parquet").truth.endswith("n.parquet, column label, split test")
    parquet_of(tmp_path / "some" / "a.parquet", image=pixels[:3], label=labels[:3], split=["train"] * 3)
    parquet_of(tmp_path / "some" / "b.parquet", image=pixels[3:], label=labels[3:])
    assert scored(tmp_path / "some").accuracy is None
    assert "some: some of its files have a column of splits, others none" in caplog.text


def test_several_sources_and_empty_labels_get_a_line(
    scored: Scored, images: Path, found: Found, tmp_path: Path, caplog: pytest.LogCaptureFixture, run: Path
) -> None:
    pixels, labels = contents(images, found), list(found.values())
    for part in ("a", "b"):
        parquet_of(tmp_path / part / "0.parquet", image=pixels, label=labels)
    assert predict(run, [str(tmp_path / "a"), str(tmp_path / "b")], num_workers=0).accuracy is None
    assert "labels are read of one source; predict these one by one" in caplog.text
    lists = [[""], *([one] for one in labels[1:])]
    assert len(scored(parquet_of(tmp_path / "e.parquet", image=pixels, label=lists)).paths) == 6
    assert "e.parquet: the label (empty) is no class of the run; it has blue, green, red" in caplog.text


def test_a_line_is_one_line(scored: Scored, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the table is called; and it says what is wrong."""
    file = csv_of(tmp_path / "two\nlines.csv", "path,label", [f"{images}/red/0.png,x\u2028y"])
    scored(file)
    (line,) = [one for one in caplog.messages if "not used" in one]
    assert line.isprintable()
    assert r"two\nlines.csv: the label x\u2028y is no class of the run; it has blue, green, red" in line

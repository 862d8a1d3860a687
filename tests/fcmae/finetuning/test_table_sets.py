"""Labeled sets of tables of paths and of images: the same columns, labels and splits for both."""

import io
import json
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from fcmae.data.classes import class_folder, class_parts
from fcmae.data.pixel_reading import PixelReading
from fcmae.errors import UserError
from fcmae.finetuning.config import FinetuneDataConfig
from fcmae.finetuning.labeled_images import LabeledImages, LabeledSet
from fcmae.finetuning.labels import labeled_set
from fcmae.finetuning.repeated import each_once
from fcmae.finetuning.tables import Row
from tests.fcmae.labeled_images import fill


def of(path: Path | str, **options: object) -> LabeledSet:
    labeled_set.cache_clear()
    return labeled_set(FinetuneDataConfig(path=str(path), **options), 0)  # type: ignore[arg-type]


def png(gray: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), gray).save(buffer, "png")
    return buffer.getvalue()


def of_images(file: Path, columns: dict[str, list]) -> Path:
    """A table of images, of which row n has the gray value n."""
    images = [{"bytes": png(n), "path": None} for n in range(len(next(iter(columns.values()))))]
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table({"image": images, **columns}), file)
    return file


def grays(images: LabeledImages) -> list[int]:
    return [int(images.open(n, PixelReading(1)).decode().flatten()[0]) for n in range(len(images))]


def table(folder: Path, text: str, images: int = 10) -> Path:
    fill(folder / "images", (200, 40, 40), images)
    (folder / "t.csv").write_text(text)
    return folder / "t.csv"


@pytest.mark.parametrize("options", [{}, {"split_column": "part"}])
def test_a_column_of_splits_of_a_table_of_images(tmp_path: Path, options: dict[str, str]) -> None:
    """It was split at random, whatever the column and the option said."""
    splits = ["Train", "val", "train", "train", "val", "test"]
    labels = ["b", "a", "a", "b", "b", "a"]
    file = of_images(tmp_path / "t.parquet", {"label": labels, options.get("split_column", "split"): splits})
    found = of(file, **options)
    assert found.classes == ("a", "b")
    assert (grays(found.train), found.train.labels.tolist()) == ([2, 0, 3], [0, 1, 1])
    assert (grays(found.val), found.val.labels.tolist()) == ([1, 4], [0, 1])
    with pytest.raises(
        UserError, match=r"--data\.split_column kind is not a column of .*t\.parquet; it has image, lab"
    ):
        of(file, split_column="kind")
    with pytest.raises(UserError, match=r"its column of splits has a, b; it needs train and val"):
        of(file, split_column="label")
    with pytest.raises(UserError, match=r"--data\.path_column split is for tables of paths; .* --data\.column"):
        of(file, path_column="split")


def test_a_column_of_splits_goes_before_the_names_of_files(tmp_path: Path) -> None:
    for name in ("train", "test"):
        columns = {"label": ["a", "b"] * 2, "split": ["val", "val", "train", "train"]}
        of_images(tmp_path / "t" / f"{name}-0.parquet", columns)
    assert [grays(part) for part in (of(tmp_path / "t").train, of(tmp_path / "t").val)] == [[0, 2, 1, 3]] * 2
    found = of(tmp_path / "t", split_column="split")
    assert [grays(part) for part in (found.train, found.val)] == [[2, 2, 3, 3], [0, 0, 1, 1]]
    for name in ("train", "test"):
        (tmp_path / "u" / name).mkdir(parents=True)
        (tmp_path / "t" / f"{name}-0.parquet").rename(tmp_path / "u" / name / "0.parquet")
    assert [len(part) for part in (of(tmp_path / "u").train, of(tmp_path / "u").val)] == [4, 4]
    found = of(tmp_path / "u", split_column="split")
    assert [grays(part) for part in (found.train, found.val)] == [[2, 2, 3, 3], [0, 0, 1, 1]]


@pytest.mark.parametrize("labels", [["cat;furry", "dog|furry", "cat"], [["cat", "furry"], ["dog", "furry"], ["cat"]]])
def test_several_labels_of_images_in_a_table(tmp_path: Path, labels: list) -> None:
    """A text was one class of that name, and lists were refused."""
    found = of(of_images(tmp_path / "t.parquet", {"label": labels, "split": ["train", "train", "val"]}))
    assert found.is_multi_label
    assert found.classes == ("cat", "dog", "furry")
    assert found.train.labels.tolist() == [[True, False, True], [False, True, True]]
    assert found.val.labels.tolist() == [[True, False, False]]


def test_numbers_of_lists_have_the_names_of_the_file(tmp_path: Path) -> None:
    file = of_images(tmp_path / "t.parquet", {"labels": [[0, 1], [1], [0]], "split": ["train", "train", "val"]})
    for feature in ('{"feature": {"names": ["cat", "dog"]}, "_type": "Sequence"}', '[{"names": ["cat", "dog"]}]'):
        info = f'{{"info": {{"features": {{"labels": {feature}}}}}}}'.encode()
        parquet.write_table(parquet.read_table(file).replace_schema_metadata({b"huggingface": info}), file)
        assert of(file).classes == ("cat", "dog")


@pytest.mark.parametrize("value", [None, "", "NA", float("nan")])
def test_a_missing_label_of_an_image_in_a_table(tmp_path: Path, value: object) -> None:
    labels = [1.0, value] if isinstance(value, float) else ["a", value]
    with pytest.raises(UserError, match=r"t\.parquet: the label (is missing )?in row 1\b"):
        of(of_images(tmp_path / "t.parquet", {"label": labels}))


@pytest.mark.parametrize("name", ["path_column", "label_column", "split_column", "column", "split"])
def test_options_of_tables_are_never_ignored(tmp_path: Path, name: str) -> None:
    for label in ("cat", "dog"):
        fill(tmp_path / "set" / label, (0, 0, 0), 2)
    for path, options in ((tmp_path / "set", {}), ("photo-tiles", {}), (tmp_path / "set", {"dataset": "folder"})):
        with pytest.raises(
            UserError, match=rf"--data\.{name} part is for (tables|Parquet and Arrow files), .* leave it"
        ):
            of(path, **{name: "part", **options})


def test_a_column_that_is_guessed_has_splits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Tables with the fold of each image could not be used at all."""
    rows = "".join(f"images/{n}.png,{'ab'[n % 2]},{n % 5}\n" for n in range(10))
    file = table(tmp_path, "path,label,fold\n" + rows)
    with caplog.at_level(logging.WARNING):
        found = of(file)
    assert (len(found.train), len(found.val)) == (8, 2)
    assert "t.csv: the column fold is not used: its values are no splits such as train and val, but 0, 1, 2, 3, 4" in (
        caplog.text
    )
    with pytest.raises(UserError, match=r"its column of splits has 0, 1, 2, 3, 4; it needs train and val"):
        of(file, split_column="fold")
    parts = "".join(f"images/{n}.png,{'ab'[n % 2]},{n % 5},{'train' if n < 8 else 'val'}\n" for n in range(10))
    file.write_text("path,label,set,partition\n" + parts)  # the next one that has splits
    assert list(of(file).val.names) == ["images/8.png", "images/9.png"]


@pytest.mark.parametrize("column", ["split", "fold"])
def test_a_word_beside_names_of_splits_is_an_error(tmp_path: Path, column: str) -> None:
    """Else rows that were held out would be trained on, in a random split."""
    rows = "".join(f"images/{n}.png,{'ab'[n % 2]},{'train' if n < 8 else 'val_seen'}\n" for n in range(10))
    with pytest.raises(UserError, match=r"its column of splits has train, val_seen; it needs train and val"):
        of(table(tmp_path, f"path,label,{column}\n" + rows))


@pytest.mark.parametrize("names", [["null", "cat"], ["car|truck", "cat"], ["nan", "a;b"]])
def test_the_names_that_a_file_gives_are_no_cells(tmp_path: Path, names: list[str]) -> None:
    """Whatever they look like, they are one label each."""
    file = of_images(tmp_path / "t.parquet", {"label": [0, 1, 0, 1]})
    info = json.dumps({"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}})
    parquet.write_table(parquet.read_table(file).replace_schema_metadata({b"huggingface": info}), file)
    found = of(file)
    assert (sorted(found.classes), found.is_multi_label) == (sorted(names), False)
    train, _ = class_folder(str(file), test_share=0.5)
    assert sorted(train.labels) == [0, 1]


def test_whole_numbers_are_the_same_classes_to_all_commands(tmp_path: Path) -> None:
    file = of_images(tmp_path / "t.parquet", {"label": [0.0, 1.0, 10.0, 2.0] * 2})
    assert of(file).classes == ("0", "1", "2", "10")
    assert list(class_parts(str(file))[0].places) == ["0", "1", "2", "10"]


def test_links_are_the_images_that_they_lead_to(tmp_path: Path) -> None:
    rows = "".join(f"images/{n}.png,{'ab'[n % 2]},{'train' if n < 6 else 'val'}\n" for n in range(10))
    file = table(tmp_path, "path,label,split\n" + rows + "images/link.png,a,val\n")
    (tmp_path / "images" / "link.png").symlink_to(tmp_path / "images" / "0.png")
    with pytest.raises(UserError, match=r"1 image has rows in both splits, .* the first: images/link\.png"):
        of(file)


def test_an_image_counts_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = "".join(f"images/{n}.png,{'ab'[n % 2]}\n" for n in range(10))
    file = table(tmp_path, "path,label\n" + rows + f"images/../images/0.png,a\n{tmp_path}/images/1.png,b\n")
    with caplog.at_level(logging.INFO):
        found = of(file)
    assert sorted([*found.train.names, *found.val.names]) == [f"images/{n}.png" for n in range(10)]
    assert "t.csv: 2 rows repeat an image and its label, which count once" in caplog.text
    listed = [Row(f"/x/{name}", name, ("a",), None) for name in "abaca"]
    assert [row.name for row in each_once(listed, "t.csv")] == ["a", "b", "c"]  # each in its first place


def test_an_image_has_its_labels_in_one_row(tmp_path: Path) -> None:
    """It trained contradictory labels."""
    rows = "".join(f"images/{n}.png,{label}\n" for n in range(3) for label in "ab"[: n + 1])
    message = r"2 images have other labels in another row; the first: images/1\.png; write them as a;b in one row$"
    with pytest.raises(UserError, match=message):
        of(table(tmp_path, "path,label\n" + rows))


def test_an_image_is_in_one_split(tmp_path: Path) -> None:
    rows = "".join(f"images/{n}.png,{'ab'[n % 2]},{'train' if n < 6 else 'val'}\n" for n in range(10))
    more = f"./images/1.png,b,val\n{tmp_path}/images/7.png,b,training\n"
    with pytest.raises(UserError, match=r"2 images have rows in both splits, .*; the first: images/7.png; leave each"):
        of(table(tmp_path, "path,label,split\n" + rows + more))


@pytest.mark.parametrize("label", ["K\xe4se", "K\xe4se;b"])
def test_a_table_that_is_not_utf8(tmp_path: Path, label: str) -> None:
    """It was trained to the end, and then nothing could read the names of the classes."""
    file = table(tmp_path, "")
    file.write_bytes(b"path,label\nimages/0.png,Brot\nimages/1.png," + label.encode("latin-1"))
    with pytest.raises(UserError, match=r"t\.csv: the label in row 2 .* not UTF-8: K\ufffdse; save the table as UTF-8"):
        of(file)


def test_a_folder_whose_name_is_not_utf8(tmp_path: Path) -> None:
    for name in (b"caf\xe9", b"tea"):
        fill(tmp_path / "set" / name.decode("utf-8", "surrogateescape"), (0, 0, 0), 3)
    message = r"set: the name of the class caf\ufffd is not UTF-8; rename the folder"
    with pytest.raises(UserError, match=message):
        of(tmp_path / "set")
    for split in ("train", "validation"):
        for name in (b"caf\xe9", b"tea"):
            fill(tmp_path / "timm" / split / name.decode("utf-8", "surrogateescape"), (0, 0, 0), 3)
    with pytest.raises(UserError, match=r"folder: the name of the class caf\ufffd is not UTF-8"):
        of(tmp_path / "timm", dataset="folder")


def test_paths_may_be_any_bytes(tmp_path: Path) -> None:
    folder = tmp_path / b"caf\xe9".decode("utf-8", "surrogateescape")
    fill(folder, (0, 0, 0), 8)
    rows = b"".join(b"caf\xe9/%d.png,%d\n" % (n, n % 2) for n in range(8))
    (tmp_path / "t.csv").write_bytes(b"path,label\n" + rows)
    assert len(of(tmp_path / "t.csv").train) == 6


def test_images_that_are_not_there_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = table(tmp_path, "path,label\n" + "".join(f"images/{n}.png,{'ab'[n % 2]}\n" for n in range(15)))
    with caplog.at_level(logging.WARNING):
        of(file)
    assert f"5 of 15 images of {file} are not there; the first: {tmp_path}/images/10.png" in caplog.text
    rows = "".join(f"images/{n}.png,{'ab'[n % 2]},{'train' if n < 10 else 'val'}\n" for n in range(15))
    file.write_text("path,label,split\n" + rows)
    with pytest.raises(
        UserError, match=r"none of the 5 images of the split val in the table is there; the first: .*10"
    ):
        of(file)


def test_names_without_endings_are_named(tmp_path: Path) -> None:
    file = table(tmp_path, "image_id,dx,label\n" + "".join(f"ISIC_002430{n},nv,{n % 2}\n" for n in range(4)))
    message = r"the first: .*ISIC_0024300; the column image_id holds no names of files with endings such as \.jpg"
    with pytest.raises(UserError, match=message):
        of(file)
    file.write_text("path,label\na.png,1\nb.png,2\n")
    with pytest.raises(UserError, match=r"the first: .*a\.png$"):
        of(file)


def test_numbers_of_classes_are_ordered_by_value(tmp_path: Path) -> None:
    numbers = ["0.0", "10.0", "2.0", "-1.5", "-10"]
    file = table(tmp_path, "path,label\n" + "".join(f"images/{n}.png,{numbers[n % 5]}\n" for n in range(10)))
    assert of(file).classes == ("-10", "-1.5", "0.0", "2.0", "10.0")
    grades = [float(number) for number in numbers] * 2
    found = of(of_images(tmp_path / "t.parquet", {"label": grades}))
    assert found.classes == ("-10", "-1.5", "0", "2", "10")
    assert np.bincount(found.train.labels).tolist() == [1] * 5

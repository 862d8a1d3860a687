"""Names of the parts of a set: what is taken for them, in folders and archives, and never for classes."""

import io
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fcmae.data.classes import class_folder, class_parts
from fcmae.data.splits import are_splits, split_folders
from fcmae.errors import UserError
from tests.fcmae.labeled_images import COLORS, fill, fill_classes


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (["train", "val"], ("train", "val")),
        (["Train", "Valid", "other"], ("Train", "Valid")),
        (["TRAINING", "Dev"], ("TRAINING", "Dev")),
        (["test", "train", "val"], ("train", "val")),  # val is to choose by, test to report
        (["train", "cat"], None),
        (["val", "test"], None),
        ([], None),
    ],
)
def test_the_parts_of_folders(names: list[str], parts: tuple[str, str] | None) -> None:
    assert split_folders(names) == parts


def test_only_names_of_parts_are_splits() -> None:
    assert are_splits(["Train", "test"])
    assert not are_splits(["train", "cat"])


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize(("train", "test"), [("train", "valid"), ("Train", "Val"), ("training", "dev")])
def test_other_spellings_are_parts_not_classes(tmp_path: Path, train: str, test: str, archive: bool) -> None:
    """They were two classes, and a network learned to tell the training split from the other."""
    for part, count in ((train, 4), (test, 2)):
        fill_classes(tmp_path / "set" / part, COLORS, count)
    source = shutil.make_archive(str(tmp_path / "packed"), "tar", tmp_path / "set") if archive else tmp_path / "set"
    trained, tested = class_folder(source)
    assert [len(trained.paths), len(tested.paths)] == [4 * len(COLORS), 2 * len(COLORS)]
    assert set(trained.labels) == set(tested.labels) == set(range(len(COLORS)))


@pytest.mark.parametrize("archive", [False, True])
def test_parts_without_one_to_train_on_are_refused(tmp_path: Path, archive: bool) -> None:
    for part in ("Val", "test"):
        fill_classes(tmp_path / "set" / part, COLORS, 2)
    source = shutil.make_archive(str(tmp_path / "packed"), "tar", tmp_path / "set") if archive else tmp_path / "set"
    with pytest.raises(
        UserError, match=r"has Val/, test/: parts of a set, not classes; one to train on must be train/"
    ):
        class_folder(source)


def test_a_part_without_classes_does_not_hide_another(tmp_path: Path) -> None:
    for part, count in (("train", 4), ("test", 2)):
        fill_classes(tmp_path / part, COLORS, count)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "notes.txt").write_text("none yet")
    trained, tested = class_folder(tmp_path)
    assert [len(trained.paths), len(tested.paths)] == [4 * len(COLORS), 2 * len(COLORS)]


def test_classes_may_have_such_names_beside_others(tmp_path: Path) -> None:
    """Vehicles: a train, a bus, and dev/ for those of developers."""
    for name, color in zip(("bus", "dev", "train"), COLORS.values(), strict=True):
        fill(tmp_path / name, color, 5)
    trained, tested = class_folder(tmp_path)
    assert [len(trained.paths), len(tested.paths)] == [12, 3]
    assert set(trained.labels) == {0, 1, 2}


def test_parquet_files_to_train_on_may_be_called_training(tmp_path: Path) -> None:
    """Their test images were trained on."""
    for name, count in (("training-0", 8), ("test-0", 4)):
        images = [{"bytes": png(n), "path": None} for n in range(count)]
        table = pa.table({"image": images, "label": [n % 2 for n in range(count)]})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    parts = class_parts(tmp_path)
    assert [len(part.images) for part in parts] == [8, 4]

"""Sources of classes: globs, and several at once, are as the folders that hold the images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fcmae.cli.parser import parse
from fcmae.data.classes import class_folder
from fcmae.data.sources.files import collect
from fcmae.errors import UserError
from fcmae.evaluate import EvaluateConfig, EvaluateDataConfig
from fcmae.finetuning.config import FinetuneConfig, FinetuneDataConfig
from fcmae.finetuning.labeled_images import LabeledSet
from fcmae.finetuning.labels import labeled_set
from tests.fcmae.data.sources.packed import make_tar
from tests.fcmae.data.sources.tabled import table_of
from tests.fcmae.labeled_images import COLORS, fill


def of(path: tuple[str, ...] | str) -> LabeledSet:
    labeled_set.cache_clear()
    return labeled_set(FinetuneDataConfig(path=path), 0)


def classes_of(path: tuple[str, ...] | str) -> dict[str, list[Path]]:
    """Class → its images, by fine-tuning and by evaluation alike."""
    found = of(path)
    parts = class_folder(path)
    by_class = {}
    for number, name in enumerate(found.classes):
        images = [
            Path(str(files[int(place)]))
            for part in (found.train, found.val)
            for files in [part.files]
            if files is not None
            for place in np.flatnonzero(part.labels == number)
        ]
        others = [Path(str(part.paths[int(n)])) for part in parts for n in np.flatnonzero(part.labels == number)]
        assert sorted(images) == sorted(others)
        by_class[name] = sorted(images)
    return by_class


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """``a`` and ``b`` with the same classes, and ``s`` with splits."""
    for place in ("a", "b", "s/train", "s/val"):
        for name in COLORS:
            fill(tmp_path / place / name, (0, 0, 0), 3)
    return tmp_path


def expected(*folders: Path) -> dict[str, list[Path]]:
    return {name: sorted(one for folder in folders for one in (folder / name).iterdir()) for name in sorted(COLORS)}


def test_a_glob_of_images_in_folders_of_classes(folders: Path) -> None:
    """It did not "exist"."""
    assert classes_of(f"{folders}/a/*/*.png") == expected(folders / "a")
    assert classes_of(f"{folders}/a/**/[01].png") == {
        name: [folders / "a" / name / f"{n}.png" for n in (0, 1)] for name in sorted(COLORS)
    }
    found = of(f"{folders}/s/*/*/*.png")
    assert [len(part) for part in (found.train, found.val)] == [9, 9]
    assert all("/val/" in str(found.val.files[n]) for n in range(9))  # type: ignore[index]
    for load in (of, class_folder):
        with pytest.raises(UserError, match=r"\*\.jpg holds no images; looked among what it matches"):
            load(f"{folders}/a/*/*.jpg")


def test_several_folders_of_classes(folders: Path) -> None:
    a, b, s = (str(folders / name) for name in "abs")
    assert classes_of((a, b)) == expected(folders / "a", folders / "b")
    assert classes_of((a, f"{b}/*/*.png", b)) == expected(folders / "a", folders / "b")  # each file once
    files = sorted(str(one) for one in (folders / "a").rglob("*.png"))
    assert classes_of(tuple(files)) == expected(folders / "a")  # as a shell makes them of a pattern
    found = of((s, s))
    assert [len(part) for part in (found.train, found.val)] == [9, 9]
    packed = make_tar(folders / "b.tar", folders / "b")
    assert {name: len(images) for name, images in classes_of((a, str(packed))).items()} == dict.fromkeys(COLORS, 6)


@pytest.mark.parametrize("load", [of, class_folder])
def test_several_sources_are_of_one_kind(folders: Path, load: Callable[[tuple[str, ...]], object]) -> None:
    a, s = str(folders / "a"), str(folders / "s")
    with pytest.raises(UserError, match=r"/s has images to train and to test on apart, but .*/a has not"):
        load((a, s))
    with pytest.raises(UserError, match=r"nowhere does not exist; give a folder .* a glob in quotes"):
        load((a, str(folders / "nowhere")))
    (folders / "t.csv").write_text("path,label\na.png,1\n")
    with pytest.raises(UserError, match=r"t\.csv is (a table of paths, which are read one at a time|not a folder)"):
        load((a, str(folders / "t.csv")))


def test_several_sources_among_the_settings(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folders)
    data = FinetuneConfig("scratch", data=FinetuneDataConfig(path=("a", "b"))).with_absolute_paths().data
    assert data.path == (str(folders / "a"), str(folders / "b"))
    assert len(collect(data.path)) == 18
    for argv in (["--data", "a,b", "w"], ["--data.path=[a,b]", "w"], ["w", "--data.path", "a,b"]):
        assert parse(EvaluateConfig, argv, "evaluate").data.path == ("a", "b")
        parsed = parse(FinetuneConfig, argv, "finetune")
        assert (parsed.weights, parsed.data.path) == ("w", ("a", "b"))
    assert parse(FinetuneConfig, ["--data.path", "a", "w"], "finetune").weights == "w"  # no second source
    for kind in (FinetuneDataConfig, EvaluateDataConfig):
        with pytest.raises(ValueError, match=r"dataset torch/cifar10 takes one folder as --data\.path, not a,b"):
            kind(path=("a", "b"), dataset="torch/cifar10")
        with pytest.raises(ValueError, match="path is empty"):
            kind(path=("a", ""))


def test_links_to_files_of_another_source_count_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They were trained on and validated on."""
    for name in COLORS:
        fill(tmp_path / "a" / name, (0, 0, 0), 3)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "hard").mkdir()
    for name in COLORS:
        (tmp_path / "hard" / name).mkdir()
        for file in (tmp_path / "a" / name).iterdir():
            (tmp_path / "hard" / name / f"other-{file.name}").hardlink_to(file)
    caplog.set_level("INFO")
    for other in ("link", "hard"):
        caplog.clear()
        assert classes_of((f"{tmp_path}/a", f"{tmp_path}/{other}")) == expected(tmp_path / "a")
        assert "9 further names (links, or given twice) of files in the set are left out" in caplog.text


def test_a_line_names_what_is_beside_the_two_parts(folders: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A test/ beside train/ and val/ was left out without a word."""
    caplog.set_level("INFO")
    of(f"{folders}/s")
    assert "left out" not in caplog.text
    for name in COLORS:
        fill(folders / "s/test" / name, (0, 0, 0), 3)
    found = of(f"{folders}/s")
    assert f"{folders}/s: train and val are used; left out: test" in caplog.messages
    assert len(found.train) == len(found.val) == 9
    caplog.clear()
    archive = make_tar(folders / "s.tar", folders / "s")
    assert len(of(str(archive)).train) == 9
    assert f"{archive}: train and val are used; left out: test" in caplog.messages


def test_a_file_that_is_trained_and_validated_on_is_told(folders: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Through a link, hard or symbolic."""
    of(f"{folders}/s")
    assert "both to train" not in caplog.text
    name = next(iter(COLORS))
    image = next((folders / "s/train" / name).iterdir())
    for link in (Path.symlink_to, Path.hardlink_to):
        caplog.clear()
        other = folders / "s/val" / name / "again.png"
        link(other, image)
        assert len(of(f"{folders}/s").val) == 10
        (line,) = caplog.messages
        assert line.startswith(
            f"{folders}/s: images both to train and to validate on, as other names of the same files: 1;"
        )
        assert f"the first: {other}." in line
        other.unlink()
    (folders / "s/train/logo.png").write_bytes(image.read_bytes())  # of no class
    (folders / "s/val/logo.png").hardlink_to(folders / "s/train/logo.png")
    caplog.clear()
    of(f"{folders}/s")
    assert "both to train" not in caplog.text


@pytest.mark.parametrize("names", [("train/a.parquet", "val/a.parquet"), ("train-0.parquet", "val-0.parquet")])
def test_a_table_that_is_both_parts_is_told(
    folders: Path, caplog: pytest.LogCaptureFixture, names: tuple[str, str]
) -> None:
    table_of(folders / "a", folders / "t" / names[0], label=[str(n % 2) for n in range(9)])
    (folders / "t" / names[1]).parent.mkdir(parents=True, exist_ok=True)
    (folders / "t" / names[1]).symlink_to(folders / "t" / names[0])
    found = of(f"{folders}/t")
    assert (len(found.train), len(found.val)) == (9, 9)
    assert "images both to train and to validate on, as other names of the same files: 9; the first: " in caplog.text

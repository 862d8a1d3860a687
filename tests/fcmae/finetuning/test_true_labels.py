"""Predictions are scored by the labels that their source has itself: the right ones, of the right images."""

import csv
import io
import re
import tarfile
from pathlib import Path

import pyarrow
import pytest
import torch
from pyarrow import parquet
from sklearn.metrics import average_precision_score

from fcmae.analysis.accuracy import Accuracy
from fcmae.errors import UserError
from fcmae.finetune import finetune
from fcmae.finetuning.average_precision import average_precision
from fcmae.finetuning.true_labels import labels_of_folders
from fcmae.predict import Predicted, main, predict
from tests.fcmae.finetuning.conftest import SMALL, other
from tests.fcmae.labeled_images import COLORS

NAMES = [f"{color}/{n}.png" for color in sorted(COLORS) for n in range(3)]


@pytest.fixture(scope="module")
def tagged(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with several labels."""
    folder = tmp_path_factory.mktemp("tagged")
    rows = [f"{images}/{name},{name[0]};{'ab'[n % 2]}" for n, name in enumerate(NAMES)]
    (folder / "train.csv").write_text("\n".join(["path,labels", *rows]))
    finetune("scratch", output=str(folder / "run"), data=str(folder / "train.csv"), **SMALL)
    return folder / "run"


def table(file: Path, images: Path, rows: dict[str, list[str]], header: str) -> Path:
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows([header.split(","), *([str(images / name), *row] for name, row in rows.items())])
    return file


def score(run: Path, source: Path, **given: object) -> Predicted:
    return predict(run, source, num_workers=0, **given)


def test_a_column_of_labels_counts_and_not_the_folders(
    run: Path, images: Path, found: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of nine labels two are other ones than what is predicted."""
    rows = {name: [other(label) if n in (2, 5) else label] for n, (name, label) in enumerate(found.items())}
    file = table(tmp_path / "nine.csv", images, rows, "path,label")
    scored = score(run, file)
    assert (scored.accuracy, scored.truth) == (Accuracy(7, 9), f"label in {file}, column label")
    assert main([str(run), str(file), "--num_workers", "0", "--output", str(tmp_path / "p.csv")]) == 0
    said = f"7 of 9 predictions are the label in {file}, column label: 77.8% [95% interval 45.3 to 93.7]"
    assert capsys.readouterr().out.splitlines()[-1] == said
    assert score(run, table(tmp_path / "photos.csv", images, rows, "photo,label")).accuracy == Accuracy(7, 9)
    named = table(tmp_path / "named.csv", images, {name: ["x", *row] for name, row in rows.items()}, "path,label,kind")
    assert score(run, named, data={"label_column": "kind"}).accuracy == Accuracy(7, 9)


def test_an_image_that_cannot_be_read_does_not_count(
    run: Path, images: Path, found: dict[str, str], tmp_path: Path
) -> None:
    """Nor does it shift the labels of those behind it."""
    (tmp_path / "0.png").write_bytes(b"no image")
    rows = {name: [label if n < 4 else other(label)] for n, (name, label) in enumerate(found.items())}
    broken = {str(tmp_path / "0.png"): ["red"]}
    assert score(run, table(tmp_path / "t.csv", images, broken | rows, "path,label")).accuracy == Accuracy(4, 9)


def test_only_the_images_to_test_on_count(
    run: Path, images: Path, found: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Those of val where there are none; every image gets its prediction."""
    names = list(found)
    of = {name: ("train", "val", "test")[n % 3] for n, name in enumerate(names)}
    wrong = {names[0], names[1], names[4], names[5]}  # one to train on, two of val, one of test
    rows = {name: [other(found[name]) if name in wrong else found[name], of[name]] for name in names}
    tested = score(run, table(tmp_path / "t.csv", images, rows, "path,label,split"))
    assert (tested.accuracy, len(tested.paths)) == (Accuracy(2, 3), 9)
    assert tested.truth.endswith("t.csv, column label, split test")
    without = {name: row for name, row in rows.items() if of[name] != "test"}
    validated = score(run, table(tmp_path / "v.csv", images, without, "path,label,part"), data={"split_column": "part"})
    assert (validated.accuracy, len(validated.paths)) == (Accuracy(1, 3), 6)
    assert validated.truth.endswith("v.csv, column label, split val")
    trained = {name: row for name, row in rows.items() if of[name] == "train"}
    of_train = score(run, table(tmp_path / "train.csv", images, trained, "path,label,split"))
    assert (of_train.accuracy, of_train.truth[-13:]) == (Accuracy(2, 3), ", split train")


def test_several_labels_have_their_mean_average_precision(
    tagged: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """One class has no image, one image no class."""
    own = {name: ["ag", "b", "a", "", "bg", "a", "ab", "g", "a"][n] for n, name in enumerate(NAMES)}
    file = table(tmp_path / "t.csv", images, {name: ["|".join(row)] for name, row in own.items()}, "file,tags")
    scored = score(tagged, file)
    assert scored.average_precision is not None
    names = [path.removeprefix(f"{images}/") for path in scored.paths]
    has = torch.tensor([[one in own[name] for one in scored.classes] for name in names])
    wanted = average_precision(scored.probabilities, has)
    assert scored.average_precision.of_classes == pytest.approx(wanted.of_classes)
    there = [n for n in range(len(scored.classes)) if has[:, n].any()]
    expected = [average_precision_score(has[:, n], scored.probabilities[:, n]) for n in there]
    assert len(expected) == len(scored.classes) - 1
    assert scored.average_precision.mean == pytest.approx(sum(expected) / len(expected))
    assert scored.accuracy is None
    assert main([str(tagged), str(file), "--num_workers", "0", "--output", str(tmp_path / "p.csv")]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(
        rf"mean average precision by the label in {file}, column tags: [\d.]+% \[95% interval [\d.]+ to [\d.]+\]", said
    )
    nothing = table(tmp_path / "none.csv", images, {name: [""] for name in own}, "file,tags")
    assert score(tagged, nothing).average_precision is None
    assert f"not scored by the label in {nothing}, column tags: no image that could be read has one" in caplog.text
    assert score(tagged, images).accuracy is None


def test_labels_that_do_not_fit(
    run: Path, images: Path, found: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They get a line, and the predictions are made; the folders score them. With a named column it is an error."""
    right = sum(name.startswith(label) for name, label in found.items())
    for labels, message in (
        (["zebra"] * 9, "the label zebra is no class of the run; it has blue, green, red"),
        (["red;blue"] * 9, "its images may have several labels or none; the run gives each one"),
        ([*["red"] * 8, ""], r"the label is missing in row 9 \(.*2\.png\)"),
    ):
        file = table(
            tmp_path / "t.csv",
            images,
            dict(zip(found, ([one] for one in labels), strict=True)),
            "path,label",
        )
        caplog.clear()
        assert score(run, file).accuracy == Accuracy(right, 9)
        (line,) = [one for one in caplog.messages if "not used" in one]
        assert re.fullmatch(f"labels of the source are not used: IMAGES {file}: {message}", line)
        with pytest.raises(UserError, match=f"^IMAGES {file}: {message}$"):
            score(run, file, data={"label_column": "label"})
    with pytest.raises(UserError, match=r"--data\.label_column kind is not a column of"):
        score(run, file, data={"label_column": "kind"})
    with pytest.raises(UserError, match=r"^--data\.label_column kind is for Parquet and Arrow files, of which IMAGES"):
        score(run, images, data={"label_column": "kind"})


def test_lists_without_labels_say_nothing(
    run: Path, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for header in ("path\n", ""):
        (tmp_path / "list.csv").write_text(header + f"{images}/red/0.png\n{images}/red/1.png\n")
        assert score(run, tmp_path / "list.csv").accuracy is None
    table(tmp_path / "list.csv", images, {NAMES[0]: [], NAMES[1]: []}, "path")
    (tmp_path / "red.png").write_bytes((images / "red/0.png").read_bytes())
    assert score(run, tmp_path / "*.png").accuracy is None
    assert "label" not in caplog.text


def rows_file(file: Path, images: Path, labels: dict[str, str], **columns: list[str]) -> None:
    file.parent.mkdir(exist_ok=True)
    cells = {"image": [(images / name).read_bytes() for name in labels], "label": list(labels.values())}
    parquet.write_table(pyarrow.table(cells | columns), file)


def test_tables_of_images(run: Path, images: Path, found: dict[str, str], tmp_path: Path) -> None:
    """The names of their files tell the splits, or a column does."""
    names = list(found)
    wrong = {name: other(found[name]) for name in names[:5]}
    test = {name: found[name] if n else other(found[name]) for n, name in enumerate(names[5:])}
    rows_file(tmp_path / "set" / "train-00000.parquet", images, wrong)
    rows_file(tmp_path / "set" / "test-00000.parquet", images, test)
    whole = score(run, tmp_path / "set")
    assert (whole.accuracy, len(whole.paths)) == (Accuracy(3, 4), 9)
    assert whole.truth.endswith("set, column label, split test")
    assert score(run, tmp_path / "set", data={"split": "train"}).accuracy == Accuracy(0, 5)
    rows_file(tmp_path / "one.parquet", images, wrong | test, split=["train"] * 5 + ["Test"] * 4)
    assert score(run, tmp_path / "one.parquet").accuracy == Accuracy(3, 4)
    rows_file(tmp_path / "all.parquet", images, wrong | test)
    assert score(run, tmp_path / "all.parquet").accuracy == Accuracy(3, 9)


def test_shards_with_classes(run: Path, images: Path, found: dict[str, str], tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as shard:
        for n, (name, label) in enumerate(found.items()):
            members = {"png": (images / name).read_bytes(), "cls": (label if n < 6 else other(label)).encode()}
            for ending, data in members.items():
                info = tarfile.TarInfo(f"{n:04}.{ending}")
                info.size = len(data)
                shard.addfile(info, io.BytesIO(data))
    assert score(run, tmp_path / "s.tar").accuracy == Accuracy(6, 9)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["0/a.png", "1/b.png"], [0, 1]),
        (["x/0/a.png", "x/1/deep/b.png"], [0, 1]),
        (["/data/0/test/0/a.png", "/data/0/test/1/b.png"], [0, 1]),
        (["0/1/a.png", "1/0/b.png"], None),
        (["0/a.png", "0/b.png"], None),
        (["0/a.png", "b.png"], None),
        (["a.png", "b.png"], None),
    ],
)
def test_the_class_of_a_folder(names: list[str], expected: list[int] | None) -> None:
    """Below the folder of all images, whose own name does not count."""
    truth = labels_of_folders({7 + n: name for n, name in enumerate(names)}, ["0", "1"])
    wanted = None if expected is None else {7 + n: (label,) for n, label in enumerate(expected)}
    assert (None if truth is None else truth.of_places) == wanted

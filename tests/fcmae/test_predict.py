"""Predictions of a fine-tuned run: which weights a path stands for, how images are called, and where files may go."""

import csv
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from fcmae import files
from fcmae.analysis.accuracy import Accuracy
from fcmae.errors import UserError
from fcmae.finetune import finetune
from fcmae.finetuning import predicting
from fcmae.finetuning.predictions_file import write_predictions
from fcmae.predict import Predicted, main, predict
from tests.fcmae.labeled_images import fill_classes

COLORS = {"dark": (90, 60, 60), "bright": (150, 180, 160)}
SMALL = {"img_size": 32, "batch_size": 4, "num_workers": 0, "epochs": 2, "config": "few_labels", "layer_decay": 1}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, three images each, whose edges differ from their middle."""
    folder = tmp_path_factory.mktemp("images")
    fill_classes(folder, COLORS, 3)
    for file in folder.rglob("*.png"):
        pixels = np.asarray(Image.open(file)).copy()
        pixels[:3], pixels[-3:] = 255, 0
        Image.fromarray(pixels).save(file)
    return folder


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a size, a crop, a value range and a normalization that are nobody's default."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    pixels = {"crop_pct": 0.6, "value_range": (0, 200), "mean": (0.1, 0.2, 0.3), "std": (0.3, 0.2, 0.25)}
    finetune("scratch", output=str(folder), base_lr=0.1, data={"path": str(images)} | pixels, **SMALL)
    return folder


@pytest.fixture(scope="module")
def found(run: Path, images: Path) -> Predicted:
    return predict(run, images, num_workers=0)


def same(one: Predicted, other: Predicted) -> bool:
    return (one.paths, one.labels, one.classes) == (other.paths, other.labels, other.classes) and torch.allclose(
        one.probabilities, other.probabilities, atol=1e-5
    )


@pytest.mark.parametrize(
    "place",
    ["checkpoints", "checkpoints/best", "checkpoints/best/model.safetensors", "export/timm", "export/transformers"],
)
def test_the_best_weights_by_any_of_their_paths(
    place: str, run: Path, images: Path, found: Predicted, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert same(predict(run / place, images, num_workers=0), found)
    if (run / place).is_dir():
        monkeypatch.chdir(run / place)
        assert same(predict(".", images, num_workers=0), found)


@pytest.mark.parametrize("format", ["timm", "transformers"])
def test_an_exported_folder_outside_of_its_run(
    format: str, run: Path, images: Path, found: Predicted, tmp_path: Path
) -> None:
    shutil.copytree(run / "export" / format, tmp_path / "mine")
    assert same(predict(tmp_path / "mine", images, num_workers=0), found)
    assert same(predict(tmp_path / "mine" / "model.safetensors", images, num_workers=0), found)


def test_images_in_folders_of_classes_are_scored(
    run: Path, images: Path, found: Predicted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right = sum(path.split("/")[0] == label for path, label in zip(found.paths, found.labels, strict=True))
    assert found.accuracy == Accuracy(right, 6)
    shutil.copytree(images / "dark", tmp_path / "test" / "dark" / "deeper")
    shutil.copytree(images / "bright", tmp_path / "test" / "bright")
    assert predict(run, tmp_path, num_workers=0).accuracy == Accuracy(right, 6)
    (tmp_path / "list.txt").write_text("\n".join(map(str, sorted(images.rglob("*.png")))))
    assert predict(run, tmp_path / "list.txt", num_workers=0).accuracy == Accuracy(right, 6)
    assert main([str(run), str(images), "--num_workers", "0", "--output", str(tmp_path / "p.csv")]) == 0
    low, high = (f"{100 * edge:.1f}" for edge in Accuracy(right, 6).interval)
    said = (
        f"{right} of 6 predictions are the class of the image's folder: {right / 6:.1%} [95% interval {low} to {high}]"
    )
    assert capsys.readouterr().out.splitlines()[-1] == said


def test_other_images_are_not_scored(run: Path, images: Path, tmp_path: Path) -> None:
    """Of one class, of none, of two at once; with a class that the run does not know."""
    for source in (images / "dark", f"{images}/dark/*.png", f"{images}/dark/0.png"):
        assert predict(run, source, num_workers=0).accuracy is None
    shutil.copytree(images, tmp_path / "images")
    shutil.copytree(images / "dark", tmp_path / "images" / "violet")
    assert predict(run, tmp_path / "images", num_workers=0).accuracy is None
    shutil.copytree(images / "dark", tmp_path / "two" / "dark" / "bright")
    assert predict(run, tmp_path / "two", num_workers=0).accuracy is None


def test_the_checkpoint_that_is_named(run: Path, images: Path, found: Predicted) -> None:
    pointer = run / "checkpoints" / "last"
    newest = pointer.with_name(pointer.read_text().strip())
    of_newest = predict(newest, images, num_workers=0)
    assert same(predict(pointer, images, num_workers=0), of_newest)
    assert of_newest.features.shape == found.features.shape


def test_an_export_of_several_labels_says_so(images: Path, tmp_path: Path) -> None:
    rows = [f"{images}/dark/0.png,a;b", f"{images}/dark/1.png,a", f"{images}/bright/0.png,b", f"{images}/bright/1.png,"]
    (tmp_path / "table.csv").write_text("path,labels\n" + "\n".join(rows))
    finetune("scratch", output=str(tmp_path / "run"), data=str(tmp_path / "table.csv"), **SMALL | {"epochs": 1})
    wanted = predict(tmp_path / "run", images, num_workers=0)
    assert not torch.allclose(wanted.probabilities.sum(1), torch.ones(6), atol=1e-3)
    for format in ("timm", "transformers"):
        shutil.copytree(tmp_path / "run" / "export" / format, tmp_path / format)
        for place in (tmp_path / "run" / "export" / format, tmp_path / format):
            assert same(predict(place, images, num_workers=0), wanted)


def test_weights_without_names_of_classes(run: Path, images: Path, tmp_path: Path) -> None:
    shutil.copy(run / "checkpoints" / "best" / "model.safetensors", tmp_path)
    for place in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(UserError, match=rf"^{place} has no names of classes: neither classes\.json of a run"):
            predict(place, images)
    with pytest.raises(UserError, match=r"^.*export has no checkpoint in it"):
        predict(run / "export", images)
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("best"))
    with pytest.raises(
        UserError, match=r"is not a run of fcmae finetune with weights: it lacks checkpoints/best/model"
    ):
        predict(tmp_path / "run", images)


def table(file: Path) -> list[str]:
    with file.open(newline="") as opened:
        return [row["path"] for row in csv.DictReader(opened)]


def test_paths_are_those_of_a_list(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever else is listed, so that the tables can be joined; of a single folder below it."""
    monkeypatch.chdir(images)
    output, features = tmp_path / "p.csv", tmp_path / "f.npz"

    def paths(*sources: str) -> list[str]:
        predict(run, sources, output=output, features=features, num_workers=0, overwrite=True)
        assert np.load(features)["path"].tolist() == table(output)
        return table(output)

    for rows in (
        ["dark/0.png"],
        ["dark/0.png", "dark/1.png"],
        ["dark/0.png", "bright/0.png", str(images / "dark/2.png")],
    ):
        (tmp_path / "list.csv").write_text("\n".join(["path", *rows]))
        assert paths(str(tmp_path / "list.csv")) == rows
    with caplog.at_level(logging.INFO):
        (tmp_path / "list.txt").write_text("dark/0.png\nbright/0.png\ndark/0.png")
        assert paths(str(tmp_path / "list.txt")) == ["dark/0.png", "bright/0.png"]
    assert "1 further name (links, or given twice) of files in the set is left out" in caplog.text
    assert paths("dark/0.png") == paths("dark/0*") == ["dark/0.png"]
    assert paths("dark/0.png", "bright/1.png") == ["dark/0.png", "bright/1.png"]
    assert paths("dark") == ["0.png", "1.png", "2.png"]
    both = [f"{folder}/{n}.png" for folder in ("bright", "dark") for n in range(3)]
    assert paths("bright", "dark") == paths(".") == both


def refusal(run: Path, images: Path, monkeypatch: pytest.MonkeyPatch, **given: Any) -> str:
    """What is said before any work is done."""

    def work(config: object) -> None:
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr("fcmae.finetuning.predicting.predictions", work)
        with pytest.raises(UserError) as error:
            predict(run, images, **given)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_two_outputs_are_two_files(run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)
    file = tmp_path / "z.parquet"
    for features in (file, tmp_path / "again" / "z.parquet", file / "f.npz"):
        said = refusal(run, images, monkeypatch, output=file, features=features)
        assert said == f"--output {file} and --features {features} exclude each other; give two files"
    assert not file.exists()


def test_a_list_of_images_is_not_replaced(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "list.csv"
    table.write_text(text := f"path,label\n{images}/dark/0.png,dark\n")
    (tmp_path / "link.csv").symlink_to(table)
    for source, file in (
        (f"{tmp_path}/l*.csv", table),
        (table, table),
        (tmp_path / "link.csv", table),
        (table, tmp_path / "link.csv"),
    ):
        said = refusal(run, source, monkeypatch, output=file, overwrite=True)
        assert said == f"--output {file} is one of the IMAGES that are read; give another file"
    assert table.read_text() == text


def test_images_of_other_values_are_told(
    run: Path, images: Path, found: Predicted, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The run's are 8 bits wide, of a range of its own: those of twelve bits would all be white, of one bit black."""
    assert "contrast" not in caplog.text
    rows = np.random.default_rng(0).integers(1000, 4096, (3, 40, 40)).astype(np.uint16)
    for name, values in (("deep", rows), ("faint", (rows // 512).astype(np.uint8))):
        (tmp_path / name).mkdir()
        for n, one in enumerate(values):
            Image.fromarray(one).save(tmp_path / name / f"{n}.png")
        caplog.clear()
        predict(run, tmp_path / name, num_workers=0)
        (line,) = [one for one in caplog.messages if "contrast" in one]
        said = re.match(
            r"the images have little contrast: .* normalized as in the run, is (\S+), where 1 is usual", line
        )
        assert said is not None
        assert float(said[1]) == pytest.approx(0.06 if name == "faint" else 0, abs=0.04)
        assert line.endswith("trained on: it maps 0,200 to 0 … 1 (data.value_range)")
    caplog.clear()
    assert same(predict(run, images, num_workers=0, batch_size=1), found)
    assert "contrast" not in caplog.text


def test_the_contrast_is_that_of_the_normalized_images() -> None:
    model = predicting._WithFeatures(timm.create_model("convnext_atto", num_classes=2))
    batches = [torch.randn(20, 3, 32, 32) * 2 + torch.tensor([0.0, 5.0, -3.0])[:, None, None] for _ in range(2)]
    for batch in batches:
        model(batch)
    every = torch.cat(batches)
    assert model.contrast == pytest.approx(float(every.var((0, 2, 3), correction=0).mean().sqrt()), rel=1e-5)


def test_channels_that_do_not_fit_name_no_option_of_training(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    np.save(tmp_path / "five.npy", np.zeros((5, 32, 32), np.uint8))
    with pytest.raises(UserError, match=r"^the image cannot be read; named above$"):
        predict(run, tmp_path, num_workers=0)
    (line,) = [one for one in caplog.messages if "five.npy" in one]
    assert line.endswith("has 5 channels, but the run takes 3")


@pytest.mark.parametrize(("flag", "ending"), [("output", ".csv"), ("features", ".npz"), ("output", ".parquet")])
def test_a_file_that_cannot_be_written(
    flag: str, ending: str, run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text").write_text("text")
    for folder in ("text", "text/deeper"):
        file = tmp_path / folder / f"p{ending}"
        said = refusal(run, images, monkeypatch, **{flag: file})
        assert said == f"--{flag} {file} cannot be written: {tmp_path / 'text'} is not a folder"
    file = tmp_path / f"{'x' * (255 - len(ending))}{ending}"  # with what it is called until it is whole, too long
    said = refusal(run, images, monkeypatch, **{flag: file})
    assert said == f"--{flag} {file} cannot be written: File name too long"


@pytest.mark.parametrize("ending", [".csv", ".npz", ".parquet"])
def test_nothing_is_left_of_a_file_that_was_not_finished(
    ending: str, run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "new" / f"p{ending}"
    given: dict[str, Any] = {"features" if ending == ".npz" else "output": file}
    with pytest.raises(UserError, match="IMAGES nowhere does not exist"):
        predict(run, "nowhere", **given)
    assert list(file.parent.iterdir()) == []

    def interrupted(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "sync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict(run, images, num_workers=0, **given)
    assert list(file.parent.iterdir()) == []


def test_one_image_on_the_command_line(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    image = str(images / "dark" / "0.png")
    assert main([str(run), image, "--num_workers", "0"]) == 0
    assert capsys.readouterr().out.startswith(f"{image}  ")
    assert main([str(run), image, "--num_workers", "0", "--output", str(tmp_path / "p.csv")]) == 0
    assert capsys.readouterr().out == f"1 image: {tmp_path / 'p.csv'}\n"
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert main([str(run), str(tmp_path / "broken.png"), "--num_workers", "0"]) == 1
    assert "the image cannot be read; named above" in caplog.text


def test_two_classes_of_one_name_have_a_column_each(tmp_path: Path) -> None:
    """As ImageNet's two cranes: the last one took the place of the first."""
    from pyarrow import parquet

    p = torch.tensor([[0.5, 0.2, 0.3]])
    expected = ["p_crane", "p_crane (2)", "p_x"]
    for file in ("p.parquet", "p.csv"):
        write_predictions(tmp_path / file, ["a.png"], ["crane"], ["crane", "crane", "x"], p)
    found = parquet.read_table(tmp_path / "p.parquet").to_pylist()[0]
    assert [found[name] for name in expected] == [0.5, 0.2, 0.3]
    with (tmp_path / "p.csv").open() as opened:
        (row,) = csv.DictReader(opened)
    assert [float(row[name]) for name in expected] == [0.5, 0.2, 0.3]

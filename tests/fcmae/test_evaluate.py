"""python -m fcmae.evaluate: what it is given to evaluate, what it says, and what it refuses."""

import json
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from fcmae.analysis.accuracy import Accuracy
from fcmae.analysis.evaluation_table import evaluation_table
from fcmae.data import labeled
from fcmae.data.crop_batches import crop_batches
from fcmae.data.pixel_reading import PixelReading
from fcmae.errors import UserError
from fcmae.evaluate import evaluate, main
from tests.fcmae.labeled_images import fill
from tests.fcmae.small_runs import save_run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("runs") / "run")


def test_from_end_to_end(run: Path, colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Colors are told apart by anything; the table and the file say the same, and a second run says it again."""
    out = tmp_path / "out"
    file = run / "checkpoints" / "step-00000001" / "model.safetensors"
    arguments = [f"trained={run}", f"again={file}", "--data.path", str(colors), "--data.num_workers", "0"]
    assert main([*arguments, "--output", str(out), "--k", "5"]) == 0
    result = json.loads((out / "evaluation.json").read_text())
    printed = capsys.readouterr().out
    names = [row["name"] for row in result["results"]]
    assert names == ["trained", "convnextv2_atto, random weights", "again", "raw pixels, 16×16"]
    for row in result["results"]:
        assert row["name"] in printed
        assert (row["train_images"] + row["test_images"], row["classes"]) == (30, 3)
        knn = row["knn"]["top1"]
        assert (knn["correct"], knn["accuracy"]) == (knn["total"], 1.0)
        assert "top5" not in row["knn"]  # of three classes it says nothing
        assert (row["pixels"]["in_chans"], row["pixels"]["stack"], row["pixels"]["value_range"]) == (3, "auto", None)
        assert row["linear"]["top1"]["accuracy"] == 1
        assert row["linear"]["converged"]
        assert row["linear"]["c_at_edge"] == (row["linear"]["c"] in (1e-5, 1e2))
        low = Accuracy(knn["correct"], knn["total"]).interval[0]
        assert f"100.0 [{100 * low:.1f}, 100.0]" in printed
    assert result["results"][0]["knn"] == result["results"][2]["knn"]

    assert main([*arguments, "--output", str(out)]) == 1
    assert main([*arguments, "--output", str(out), "--overwrite", "--k", "5"]) == 0
    assert json.loads((out / "evaluation.json").read_text()) == result


def test_random_labels_are_at_chance(run: Path, tmp_path: Path) -> None:
    """Classes that differ in nothing: a quarter right, within 4 standard deviations, which nothing leaked would be."""
    for name in "abcd":
        (tmp_path / "data" / name).mkdir(parents=True)
    random = np.random.default_rng(0)
    for n in range(200):
        image = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        image.save(tmp_path / "data" / "abcd"[n % 4] / f"{n}.png")
    arguments = ["--data.path", str(tmp_path / "data"), "--data.num_workers", "0", "--test_share", "0.5"]
    arguments += ["--output", str(tmp_path)]
    assert main([str(run), *arguments]) == 0
    for row in json.loads((tmp_path / "evaluation.json").read_text())["results"]:
        for probe in ("knn", "linear"):
            assert row[probe]["top1"]["total"] == 100
            assert abs(row[probe]["top1"]["accuracy"] - 0.25) < 4 * (0.25 * 0.75 / 100) ** 0.5


def test_networks_of_one_shape_share_a_pass(
    run: Path, colors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image is read once for all of them, and their rows are those that they have alone."""
    other = save_run(tmp_path / "other", stem_stride=2)
    passes = []

    def counted(*arguments: Any) -> Any:
        passes.append(arguments[1:3])
        return crop_batches(*arguments)

    monkeypatch.setattr(labeled, "crop_batches", counted)

    def rows(*networks: str) -> list[Any]:
        passes.clear()
        options = ["--data.path", str(colors), "--data.num_workers", "0", "--output", str(tmp_path), "--overwrite"]
        assert main([*networks, *options]) == 0
        return list(json.loads((tmp_path / "evaluation.json").read_text())["results"])

    together = rows(f"a={run}", f"b={other}")
    assert passes == [((32, 32), PixelReading(3))] * 2  # to learn from, and to test
    assert together[:2] == rows(f"a={run}")[:2]
    assert together[2:] == rows(f"b={other}")


def test_a_network_of_one_size_is_given_that_size(tmp_path: Path) -> None:
    """Out of the box, and built for another where one is asked for; digits are kept small for the rest."""
    sizes = []
    for arguments in (["vit_tiny_patch16_224", "convnextv2_atto"], ["vit_tiny_patch16_224", "--img_size", "32"]):
        assert main([*arguments, "--images", "20", "--output", str(tmp_path), "--overwrite"]) == 0
        sizes.append([row["image_hw"][0] for row in json.loads((tmp_path / "evaluation.json").read_text())["results"]])
    assert sizes == [[224, 64, 224], [32, 32]]


class Runs:
    """An object whose unpickling runs code."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return eval, ("1 + 1",)


@pytest.mark.parametrize("allowed", [True, False])
def test_pickles_are_read_where_that_is_allowed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, allowed: bool
) -> None:
    network = timm.create_model("convnextv2_atto", num_classes=0)
    torch.save({"model": network.state_dict(), "lr": Runs()}, tmp_path / "weights.pth")
    options = ["--images", "20", "--img_size", "32", *["--allow_pickle"] * allowed]
    assert main([str(tmp_path / "weights.pth"), *options]) == (0 if allowed else 1)
    assert ("--allow_pickle" in caplog.text) is not allowed


def test_without_data_it_is_digits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convnextv2_atto", "--img_size", "32", "--images", "200"]) == 0
    printed = capsys.readouterr().out
    assert "digits: 200 training images, 200 test images, 10 classes" in printed
    assert "kNN top-5" in printed
    assert printed.count("convnextv2_atto, random weights") == 1  # it is its own baseline


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is neither a run, a checkpoint or a weights file, nor the name of a timm network"),
        (["RUN", "--data.path", "nowhere"], "--data.path nowhere does not exist"),
        (["RUN", "--data.path", "ONE"], "holds one class, only"),
        (["RUN", "--data.path", "FEW"], "a class needs at least 2 images; too few in b"),
        (["RUN", "--data.path", "FLAT"], "has no subfolders with images; it needs one per class"),
        (["RUN", "--data.dataset", "torch/cifar10"], "--data.dataset torch/cifar10 needs --data.path"),
        (["RUN", "--k", "0"], "--k must be at least 1, got 0"),
        (["RUN", "--images", "1"], "--images must be at least 2, got 1"),
        (["RUN", "--data.num_workers", "-1"], "--data.num_workers must be at least 0, got -1"),
        (["RUN", "--test_share", "1"], "--test_share must be between 0 and 1, got 1.0"),
        (["RUN", "--temperature", ".nan"], "--temperature must be above 0, got nan"),
        (["RUN", "--device", "abacus"], "--device abacus cannot be used here"),
        (["RUN", "--output", "FILE"], "is a file; give a folder"),
        (["convnextv2_atto", "--img_size", "8"], "cannot take 64 images of 8×8 pixels"),
        (["EMPTY"], "has no checkpoint in it"),
    ],
)
def test_wrong_input_gets_one_line(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, arguments: list[str], message: str
) -> None:
    fill(tmp_path / "ONE" / "only", (1, 2, 3), 3)
    fill(tmp_path / "FEW" / "a", (1, 2, 3), 3)
    fill(tmp_path / "FEW" / "b", (1, 2, 3), 1)
    fill(tmp_path / "FLAT", (1, 2, 3), 2)
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "FILE").write_text("")
    places = {"RUN": str(run)} | {name: str(tmp_path / name) for name in ("ONE", "FEW", "FLAT", "FILE", "EMPTY")}
    assert main([places.get(argument, argument) for argument in arguments]) == 1
    error = caplog.records[-1].getMessage()
    assert message in error
    assert "\n" not in error


def test_from_python(run: Path, colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The result holds what the command prints and writes; the function prints nothing."""
    capsys.readouterr()
    found = evaluate(run, data=colors, num_workers=0, k=5, output=tmp_path / "python")
    assert capsys.readouterr().out == ""
    options = ["--data.path", str(colors), "--data.num_workers", "0", "--k", "5", "--output", str(tmp_path / "cli")]
    assert main([str(run), *options]) == 0
    assert capsys.readouterr().out == evaluation_table(found)
    written = json.loads((tmp_path / "cli" / "evaluation.json").read_text())
    assert found.file == tmp_path / "python" / "evaluation.json"
    assert json.loads(found.file.read_text()) == written == json.loads(json.dumps(found.as_dict()))
    (trained, random, raw) = found.results
    assert (trained.name, random.name, raw.name) == ("run", "convnextv2_atto, random weights", "raw pixels, 16×16")
    assert trained.image_hw == (32, 32)
    for row, plain in zip(found.results, written["results"], strict=True):
        for scores, of_them in ((row.knn, plain["knn"]), (row.linear, plain["linear"])):
            assert (scores.top1.correct, scores.top1.total) == (of_them["top1"]["correct"], of_them["top1"]["total"])
            assert (scores.top1.share, scores.top5) == (of_them["top1"]["accuracy"], None)
    with pytest.raises(UserError, match=r"holds evaluation.json already"):
        evaluate([run], data=colors, output=tmp_path / "python")
    with pytest.raises(UserError, match=r"--k must be at least 1, got 0"):
        evaluate([run], k=0)
    with pytest.raises(FrozenInstanceError):
        found.images = 3  # type: ignore[misc]

"""The report of a fine-tuning run: validation, confusion matrix, mistakes; and none of it for other runs."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from fcmae.finetuning.config import FinetuneConfig
from fcmae.finetuning.scores import Predictions, scores_of
from fcmae.finetuning.validation import write_validation
from fcmae.report_page.page import render_report
from fcmae.report_page.validation import read_validation
from fcmae.runs.reader import read_run
from tests.fcmae.report_page.made_runs import collapse_file, made_run


def made(folder: Path, classes: list[str], confusion: list[list[int]]) -> Path:
    """A run of fine-tuning with one validation."""
    (folder / "validation").mkdir(parents=True)
    settings = yaml.safe_dump(FinetuneConfig(weights="runs/mine", seed=3).as_dict())
    (folder / "config.yaml").write_text(f"# fcmae 0.1.0, torch 2.11.0, 1 process(es)\n{settings}")
    scores = {"val_loss": 0.5, "val_top1": 0.75, "val_top1_low": 0.6, "val_top1_high": 0.85}
    lines = [{"step": 10, "epoch": 1.0, "loss": 1.5, "lr": 1e-3, "images_per_second": 5.0}, {"step": 10, "epoch": 1.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (lines[0], lines[1] | scores)))
    content = {"step": 10, "classes": classes, "scores": scores, "images": 40, "confusion": confusion}
    (folder / "validation" / "scores.json").write_text(json.dumps(content))
    Image.new("RGB", (64, 32), "red").save(folder / "validation" / "mistakes.png")
    return folder


def test_a_few_classes_are_a_matrix(tmp_path: Path) -> None:
    run = made(tmp_path / "run", ["cat", "<dog>"], [[8, 2], [0, 30]])
    found = read_validation(run)
    assert found is not None
    assert found.summary == "75.0% correct [95% interval 60.0 to 85.0], after step 10, on 40 images"
    assert [[cell.count for cell in cells] for _, cells in found.matrix] == [[8, 2], [0, 30]]
    assert [[cell.share for cell in cells] for _, cells in found.matrix] == [[0.8, 0.2], [0.0, 1.0]]
    assert found.pairs == [("cat", "<dog>", 2)]
    page = render_report(read_run(run))
    assert "Best validation" in page
    assert "&lt;dog&gt;" in page
    assert "<dog>" not in page
    assert "data:image/png;base64," in page
    assert 'id="reconstructions"' not in page
    assert ">seed<" in page  # a setting that is not the default
    assert "train.layer_<wbr>decay" not in page  # one that is
    assert 'class="numbers confusion"' in page  # two names stand side by side


def test_names_of_more_than_six_classes_stand_upright(tmp_path: Path) -> None:
    """Side by side they were broken inside words, or pushed the numbers off the page."""
    for count, title in ((6, "numbers confusion"), (7, "numbers confusion many")):
        confusion = [[10 * (n == m) for m in range(count)] for n in range(count)]
        run = made(tmp_path / str(count), [f"class {n}" for n in range(count)], confusion)
        page = render_report(read_run(run))
        assert f'class="{title}"' in page
        assert 'title="class 5"><span>class 5</span>' in page


def test_the_best_is_that_whose_weights_are_kept(tmp_path: Path) -> None:
    """Of equal scores the one with the lower loss."""
    run = made(tmp_path / "run", ["a", "b"], [[1, 0], [0, 1]])
    with (run / "metrics.jsonl").open("a") as file:
        for step, loss in ((20, 0.3), (30, 0.4)):
            file.write(json.dumps({"step": step, "epoch": step / 10, "val_loss": loss, "val_top1": 0.75}) + "\n")
    assert "correct, step 20" in render_report(read_run(run))


def test_mistakes_are_named_in_any_letters(tmp_path: Path) -> None:
    run = made(tmp_path / "run", ["Ü", "猫"], [[8, 2], [0, 30]])
    content = json.loads((run / "validation" / "scores.json").read_text())
    assert "Names of these images" not in render_report(read_run(run))  # of a run of before
    content["mistakes"] = [
        {"image": "Ü/<1>.png", "label": "Ü", "predicted": "猫", "probability": 0.25},
        {"image": "b.png", "label": ["Ü", "猫"], "predicted": []},
    ]
    (run / "validation" / "scores.json").write_text(json.dumps(content))
    found = read_validation(run)
    assert found is not None
    assert found.mistakes_named == [("Ü/<1>.png", "Ü", "猫"), ("b.png", "Ü, 猫", "–")]
    page = render_report(read_run(run)).replace("<wbr>", "")
    assert '<th scope="row">Ü/&lt;1&gt;.png</th><td>Ü</td><td>猫</td>' in page


def test_many_classes_are_the_pairs_confused_most(tmp_path: Path) -> None:
    classes = [f"class {n}" for n in range(40)]
    confusion = [[10 if n == m else 0 for m in range(40)] for n in range(40)]
    confusion[3][7], confusion[8][2] = 4, 6
    found = read_validation(made(tmp_path / "run", classes, confusion))
    assert found is not None
    assert found.matrix == []
    assert found.pairs == [("class 8", "class 2", 6), ("class 3", "class 7", 4)]
    assert "What is confused most often" in render_report(read_run(tmp_path / "run"))


def test_pairs_of_very_many_classes_are_read_as_they_were_written(tmp_path: Path) -> None:
    """Where the matrix is not written, of more than a hundred classes."""
    run = made(tmp_path / "run", [f"class {n}" for n in range(120)], [])
    labels = torch.tensor([3, 8, 8, 8, 5])
    predicted = torch.tensor([7, 2, 2, 8, 5])
    logits = torch.nn.functional.one_hot(predicted, 120).float()
    images = SimpleNamespace(names=[str(n) for n in range(5)])
    data: Any = SimpleNamespace(classes=[f"class {n}" for n in range(120)], is_multi_label=False, val=images)
    predictions = Predictions.of(torch.arange(5), logits, labels)
    write_validation(run, data, predictions, scores_of(predictions), None, 10, 0)  # type: ignore[arg-type]
    assert "confusion" not in json.loads((run / "validation" / "scores.json").read_text())
    found = read_validation(run)
    assert found is not None
    assert found.matrix == []
    assert found.pairs == [("class 8", "class 2", 2), ("class 3", "class 7", 1)]


def test_classes_that_an_image_may_have_several_of_have_their_precision(tmp_path: Path) -> None:
    """As it is written; a class that no image has stands last."""
    run = made(tmp_path / "run", ["sky", "<sea>", "owl"], [])
    labels = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    logits = torch.tensor([[0.9, 0.2, 0.1], [0.8, 0.9, 0.3], [0.7, 0.1, 0.2]])
    images = SimpleNamespace(names=["a", "b", "c"])
    data: Any = SimpleNamespace(classes=["sky", "<sea>", "owl"], is_multi_label=True, val=images)
    predictions = Predictions.of(torch.arange(3), logits, labels)
    write_validation(run, data, predictions, scores_of(predictions), None, 10, 0)  # type: ignore[arg-type]
    found = read_validation(run)
    assert found is not None
    assert found.precisions == [("<sea>", 1, 0.5), ("sky", 2, pytest.approx(5 / 6)), ("owl", 0, None)]
    assert re.fullmatch(
        r"mean average precision 66\.7% \[95% interval \d+\.\d to \d+\.\d\], after step 10, on 3 images", found.summary
    )
    page = render_report(read_run(run)).replace("<wbr>", "")
    assert "by class, the least first</caption>" in page
    assert '<th scope="row">&lt;sea&gt;</th><td>1</td><td>50.0%</td>' in page
    assert '<th scope="row">owl</th><td>0</td><td>–</td>' in page


def test_what_is_damaged_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = made(tmp_path / "run", ["a", "b"], [[1, 2]])
    assert read_validation(run) is None
    assert "the confusion matrix is not square" in caplog.text
    (run / "validation" / "mistakes.png").write_bytes(b"no picture")
    assert "No validation yet" in render_report(read_run(run))


def test_every_chart_has_its_place(tmp_path: Path) -> None:
    """Also those of ``fcmae collapse`` and the table of ``fcmae evaluate``, which take fine-tuned runs too."""
    run = made(tmp_path / "run", ["a", "b"], [[1, 0], [0, 1]])
    assert 'id="features"' not in render_report(read_run(run))
    (run / "collapse.json").write_text(json.dumps(collapse_file({"V2": [0.5, 0.25]})))
    page = render_report(read_run(run))
    data = re.search(r'id="chart-data">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    charts = list(json.loads(data[1]))
    assert "depth" in charts
    assert [name for name in charts if f'id="chart-{name}"' not in page] == []
    assert "--monitor.every" not in page


def test_runs_of_pretraining_have_none(tmp_path: Path) -> None:
    page = render_report(read_run(made_run(tmp_path / "run")))
    assert 'id="validation"' not in page
    assert 'id="reconstructions"' in page

"""examples/pretraining_pays.py, which make finetune runs: whose weights it takes, and what it compares."""

import importlib.util
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

EXAMPLE = Path(__file__).parents[1] / "examples" / "pretraining_pays.py"


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, in an empty folder."""
    spec = importlib.util.spec_from_file_location("pretraining_pays", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    return module


def run_folder(name: str, age: int, path: str | None = None, is_finished: bool = True, **train: Any) -> None:
    folder = Path("runs") / name
    folder.mkdir(parents=True)
    settings = {
        "model": {"name": "convnextv2_atto", "stem_stride": 1},
        "data": {"path": path},
        "train": {"mask_ratio": 0.6} | train,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    os.utime(folder / "config.yaml", (10**9 - age, 10**9 - age))
    if is_finished:
        (folder / "checkpoints" / "last").mkdir(parents=True)


def test_it_takes_the_newest_demo_run_and_no_other(example: Any) -> None:
    run_folder("older-demo", age=9)
    run_folder("demo", age=8)
    run_folder("unfinished", age=3, is_finished=False)
    run_folder("of-my-photos", age=2, path="/photos")
    tuned = Path("runs") / "tuned"
    run_folder("tuned", age=1)
    settings = yaml.safe_load((tuned / "config.yaml").read_text())
    del settings["train"]["mask_ratio"]  # fine-tuning has none
    (tuned / "config.yaml").write_text(yaml.safe_dump(settings))
    assert example.demo_run() == Path("runs/demo")


def test_without_one_it_pretrains(example: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example, "pretrain", lambda output: SimpleNamespace(folder=output))
    assert example.demo_run() == Path("runs/demo")


def test_both_networks_stand_side_by_side(
    example: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def finetune(weights: str, config: str, seed: int) -> Any:
        folder = Path("runs") / f"tuned-{Path(weights).name}"
        (folder / "validation").mkdir(parents=True)
        share = 0.613 if weights == "runs/demo" else 0.448
        scores = {"val_top1": share, "val_top1_low": share - 0.06, "val_top1_high": share + 0.05}
        (folder / "validation" / "scores.json").write_text(json.dumps({"scores": scores}))
        assert (config, seed) == ("finetune_demo", 3)
        return SimpleNamespace(folder=folder, is_complete=True)

    run_folder("demo", age=1)
    monkeypatch.setattr(example, "finetune", finetune)
    monkeypatch.setattr("sys.argv", ["pretraining_pays.py", "--seed", "3"])
    example.main()
    said = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert said[-2:] == [
        "pretrained 61.3% (55.3% to 66.3%) runs/tuned-demo",
        "random weights 44.8% (38.8% to 49.8%) runs/tuned-scratch",
    ]

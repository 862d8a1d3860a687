"""examples/pretraining_pays.py, which make finetune runs: whose weights it takes, and what it compares."""

import importlib.util
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fcmae.runs.checkpoint import write_state
from fcmae.runs.state import TrainState

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


def run_folder(name: str, age: int, path: str | None = None, epochs: int = 3, **train: Any) -> Path:
    """Of three epochs of two steps, of which it has done some; its checkpoint has no weights."""
    run = Path("runs") / name
    checkpoint = run / "checkpoints" / f"step-{2 * epochs:08}"
    checkpoint.mkdir(parents=True)
    settings = {
        "model": {"name": "convnextv2_atto", "stem_stride": 1, "in_chans": 3},
        "data": {"path": path},
        "train": {"epochs": 3} | (train or {"mask_ratio": 0.6}),
    }
    write_state(checkpoint, TrainState(2 * epochs, effective_batch=8, samples_per_epoch=16, settings=settings))
    (run / "checkpoints" / "last").write_text(checkpoint.name)
    (run / "config.yaml").write_text("not read\n")
    os.utime(run / "config.yaml", (10**9 - age, 10**9 - age))
    return run


def test_it_takes_the_newest_demo_run_and_no_other(example: Any) -> None:
    run_folder("older-demo", age=9)
    run_folder("demo", age=8)
    run_folder("unfinished", age=4, epochs=2)
    run_folder("of-my-photos", age=3, path="/photos")
    run_folder("tuned", age=2, layer_decay=0.9)
    damaged = run_folder("damaged", age=1)
    (damaged / "checkpoints" / "last").write_text("step-00000099")
    (Path("runs") / "other").mkdir()
    (Path("runs") / "other" / "config.yaml").write_text("- [of another: program")
    assert example.demo_run() == Path("runs/demo")


def test_without_one_it_pretrains(example: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example, "pretrain", lambda output: SimpleNamespace(folder=output, is_complete=True))
    assert example.demo_run() == Path("runs/demo")
    monkeypatch.setattr(example, "pretrain", lambda output: SimpleNamespace(folder=output, is_complete=False))
    with pytest.raises(SystemExit):  # stopped: there is nothing to compare
        example.demo_run()


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

"""The best weights survive a kill at any moment of their replacement."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors import SafetensorError
from torch import nn

from fcmae.finetuning.best import OLD, PARTIAL, best_folder, restore_best, save_best
from fcmae.finetuning.ranking import best_score, rank
from fcmae.runs import checkpoint
from fcmae.runs.find import MODEL
from fcmae.runs.mark import MARK
from fcmae.runs.state import TrainState


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    best = best_folder(tmp_path)
    best.mkdir(parents=True)
    (best / "weights").write_text("older")
    best.rename(best.with_name(OLD))
    restore_best(tmp_path)
    assert (best / "weights").read_text() == "older"
    restore_best(tmp_path)  # nothing to do
    leftover = best.with_name(OLD)
    leftover.mkdir()
    restore_best(tmp_path)  # a kill after them: the new ones stay
    assert (best / "weights").read_text() == "older"
    assert leftover.is_dir()


def test_of_equal_scores_the_best_has_the_lower_loss(tmp_path: Path) -> None:
    """With few images to validate on scores are often equal, and the first of them is the least trained."""
    scores = ((2, 0.5, 0.1), (4, 0.75, 0.6), (6, 0.75, 0.4), (8, 0.75, 0.4), (10, 0.25, 0.2))
    lines = [{"step": step, "epoch": step / 2, "val_top1": score, "val_loss": loss} for step, score, loss in scores]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert best_score(tmp_path) == (0.75, 6)
    assert max(scores, key=lambda line: rank(line[1], line[2]))[0] == 6
    assert best_score(tmp_path / "nothing") == (None, None)


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """What :func:`save_best` reads of a run."""
    return SimpleNamespace(folder=tmp_path, start=TrainState(0, 4, 40))


def test_what_replaces_the_best_is_on_disk_before_it_takes_the_name(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a power failure leaves a folder of that name without its files."""
    partial = best_folder(run.folder).with_name(PARTIAL)
    synced: list[str] = []
    monkeypatch.setattr(checkpoint, "sync", lambda path: synced.append(path.name) if partial.exists() else None)
    for step in (5, 10):
        synced.clear()
        save_best(run, nn.Linear(2, 2), {}, step)
        assert set(synced) == {MODEL, MARK, "state.json", PARTIAL}
        assert synced[-1] == PARTIAL
        assert json.loads((best_folder(run.folder) / "state.json").read_text())["step"] == step
    assert [file.name for file in best_folder(run.folder).parent.iterdir()] == [best_folder(run.folder).name]


def test_a_disk_that_is_full_leaves_the_best_so_far(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    save_best(run, nn.Linear(2, 2), {}, 5)

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match=r"cannot be written: .*No space left on device"):
        save_best(run, nn.Linear(2, 2), {}, 10)
    assert json.loads((best_folder(run.folder) / "state.json").read_text())["step"] == 5
    assert [file.name for file in best_folder(run.folder).parent.iterdir()] == [best_folder(run.folder).name]

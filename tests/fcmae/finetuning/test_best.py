"""The best weights survive a kill at any moment of their replacement."""

import json
from pathlib import Path

from fcmae.finetuning.best import OLD, best_folder, best_score, rank, restore_best


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

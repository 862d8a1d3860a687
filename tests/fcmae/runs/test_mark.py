"""Only what this run wrote is ever deleted or replaced."""

import shutil
from pathlib import Path

import torch

from fcmae.runs import checkpoint as ckpt
from fcmae.runs.mark import MARK, marked_run
from tests.fcmae.runs.test_checkpoint import state, trained


def save(run: Path, step: int, keep: int = 1) -> Path:
    model, optimizer = trained()
    folder = ckpt.save_checkpoint(run, model, {}, optimizer, state(step))
    ckpt.delete_old_checkpoints(run, keep)
    return folder


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / ckpt.FOLDER).iterdir() if path.name != ckpt.LAST)


def test_a_copy_that_the_user_made_stays(tmp_path: Path) -> None:
    first = save(tmp_path, 1)
    shutil.copytree(first, first.with_name("step-00000001-best"))
    shutil.copytree(first, first.with_name("step-00000000"))  # the name of one that would be old
    save(tmp_path, 2)
    assert names(tmp_path) == ["step-00000000", "step-00000001-best", "step-00000002"]
    (tmp_path / ckpt.FOLDER / ckpt.LAST).unlink()
    assert ckpt.last_checkpoint(tmp_path) == tmp_path / ckpt.FOLDER / "step-00000002"


def test_folders_of_another_program_stay_and_what_is_in_them(tmp_path: Path) -> None:
    for name in ("step-00000001", "step-00000002", "step-00000009", ".partial-step-00000001"):
        (tmp_path / ckpt.FOLDER / name).mkdir(parents=True)
        (tmp_path / ckpt.FOLDER / name / "weights.ckpt").write_text("precious")
    assert ckpt.last_checkpoint(tmp_path) is None
    for step in (1, 2, 3):
        folder = save(tmp_path, step)
        assert ckpt.last_checkpoint(tmp_path) == folder
        assert ckpt.load_checkpoint(folder, *trained()).step == step
    assert names(tmp_path) == [
        ".partial-step-00000001", "step-00000001", "step-00000002", "step-00000003", "step-00000009"
    ]  # fmt: skip
    assert len(list(tmp_path.rglob("weights.ckpt"))) == 4


def test_the_name_of_another_programs_folder_is_not_taken(tmp_path: Path) -> None:
    theirs = tmp_path / ckpt.FOLDER / "step-00000003"
    theirs.mkdir(parents=True)
    ours = save(tmp_path, 3)
    assert ours.name == f"step-00000003-{marked_run(ours)}"
    assert list(theirs.iterdir()) == []
    assert save(tmp_path, 3) == ours  # its own may be replaced


def test_checkpoints_of_older_versions_stay(tmp_path: Path) -> None:
    old = save(tmp_path, 1)
    (old / MARK).unlink()
    assert ckpt.load_checkpoint(old, *trained()).step == 1
    for step in (2, 3):
        save(tmp_path, step)
    assert names(tmp_path) == ["step-00000001", "step-00000003"]


def test_checkpoints_of_another_run_stay(tmp_path: Path) -> None:
    theirs = save(tmp_path / "a", 1)
    save(tmp_path / "b", 2)
    shutil.copytree(theirs, tmp_path / "b" / ckpt.FOLDER / theirs.name)
    save(tmp_path / "b", 3)
    assert names(tmp_path / "b") == ["step-00000001", "step-00000003"]


def test_a_moved_run_goes_on_deleting_its_own(tmp_path: Path) -> None:
    save(tmp_path / "a", 1)
    (tmp_path / "a").rename(tmp_path / "b")
    save(tmp_path / "b", 2)
    assert names(tmp_path / "b") == ["step-00000002"]


def test_what_a_killed_process_left_unfinished_goes(tmp_path: Path) -> None:
    folder = save(tmp_path, 1).parent
    for left in (".partial-0123456789ab-step-00000002", ".deleted-0123456789ab-step-00000000"):
        (folder / left).mkdir()
        (folder / left / ckpt.MODEL).write_text("half")
    save(tmp_path, 2)
    assert names(tmp_path) == ["step-00000002"]


def test_the_optimizer_keeps_its_hyperparameters(tmp_path: Path) -> None:
    """Weight decay, betas and learning rate are options of the resumed run; moments and steps are the saved ones."""
    model, optimizer = trained()
    optimizer.param_groups[0]["initial_lr"] = 0.1  # as the schedule leaves it
    folder = ckpt.save_checkpoint(tmp_path, model, {}, optimizer, state(1))
    other = torch.optim.AdamW(model.parameters(), lr=0.5, betas=(0.1, 0.2), weight_decay=0.3)
    ckpt.load_checkpoint(folder, model, other)
    (group,) = other.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.5, (0.1, 0.2), 0.3)
    assert "initial_lr" not in group
    for parameter in model.parameters():
        assert torch.equal(other.state[parameter]["exp_avg"], optimizer.state[parameter]["exp_avg"])

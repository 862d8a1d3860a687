"""Checkpoints are complete or not there, whatever moment the process dies in."""

from pathlib import Path

import pytest
import torch
from torch import nn

from fcmae.errors import UserError
from fcmae.runs import checkpoint as ckpt
from fcmae.runs.state import write_state


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def state(step: int) -> ckpt.TrainState:
    return ckpt.TrainState(step, effective_batch=4, samples_per_epoch=10, pending_losses=[0.1, 1 / 3])


def test_round_trip_is_exact(tmp_path: Path) -> None:
    model, optimizer = trained()
    folder = ckpt.save_checkpoint(tmp_path, model, {"name": "x"}, optimizer, state(7))
    other, other_optimizer = trained()
    assert ckpt.load_checkpoint(folder, other, other_optimizer) == state(7)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        for key in ("exp_avg", "exp_avg_sq", "step"):
            assert torch.equal(optimizer.state[a][key], other_optimizer.state[b][key])
    assert ckpt.read_model(folder / ckpt.MODEL)[1] == {"name": "x"}


@pytest.mark.parametrize("dies_in", ["save_file", "torch.save", "rename", "write_text"])
def test_dying_in_mid_save_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_in: str) -> None:
    """After a death at any stage ``last`` names a checkpoint that loads; saving again then works."""
    model, optimizer = trained()
    ckpt.save_checkpoint(tmp_path, model, {}, optimizer, state(1))

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if dies_in == "torch.save":
            patch.setattr(torch, "save", die)
        elif dies_in == "rename":
            patch.setattr(Path, "rename", die)
        else:
            patch.setattr(ckpt, dies_in, die)
        with pytest.raises(KeyboardInterrupt):
            ckpt.save_checkpoint(tmp_path, model, {}, optimizer, state(2))
    last = ckpt.last_checkpoint(tmp_path)
    assert last is not None
    assert ckpt.load_checkpoint(last, *trained()).step == 1
    ckpt.save_checkpoint(tmp_path, model, {}, optimizer, state(2))
    assert ckpt.load_checkpoint(ckpt.resolve_checkpoint(tmp_path), *trained()).step == 2
    ckpt.delete_old_checkpoints(tmp_path, keep=1)
    assert sorted(p.name for p in (tmp_path / ckpt.FOLDER).iterdir()) == ["last", "step-00000002"]


@pytest.mark.parametrize(("keep", "left"), [(0, 5), (1, 1), (3, 3), (9, 5)])
def test_the_newest_are_kept(tmp_path: Path, keep: int, left: int) -> None:
    model, optimizer = trained()
    for step in range(1, 6):
        ckpt.save_checkpoint(tmp_path, model, {}, optimizer, state(step))
    ckpt.delete_old_checkpoints(tmp_path, keep)
    names = sorted(p.name for p in (tmp_path / ckpt.FOLDER).glob("step-*"))
    assert names == [f"step-{s:08d}" for s in range(6 - left, 6)]


def test_every_way_to_name_a_checkpoint(tmp_path: Path) -> None:
    folder = ckpt.save_checkpoint(tmp_path, *[trained()[0], {}, trained()[1]], state(3))
    for path in (tmp_path, tmp_path / "checkpoints", tmp_path / "checkpoints" / "last", folder, str(folder)):
        assert ckpt.resolve_checkpoint(path) == folder
    with pytest.raises(UserError, match="nowhere does not exist; give a run folder"):
        ckpt.resolve_checkpoint(tmp_path / "nowhere")


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    folder = ckpt.save_checkpoint(tmp_path, *[trained()[0], {}, trained()[1]], state(3))
    other = nn.Linear(5, 2)
    with pytest.raises(UserError, match=r"is of another model: .*size mismatch for weight"):
        ckpt.load_checkpoint(folder, other, torch.optim.AdamW(other.parameters()))


def test_an_optimizer_file_never_runs_code(tmp_path: Path) -> None:
    model, optimizer = trained()
    folder = ckpt.save_checkpoint(tmp_path, model, {}, optimizer, state(3))

    class Evil:
        def __reduce__(self) -> tuple:
            return (tmp_path.joinpath("ran").touch, ())

    torch.save({"state": Evil()}, folder / ckpt.OPTIMIZER)
    write_state(folder / ckpt.STATE, state(3))  # without the checksums, which would refuse it first
    with pytest.raises(UserError, match=r"optimizer\.pt cannot be read"):
        ckpt.load_checkpoint(folder, model, optimizer)
    assert not (tmp_path / "ran").exists()

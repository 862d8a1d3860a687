"""Which checkpoint of a run is whole, where the newest is damaged; nothing older is taken without being asked."""

from pathlib import Path

import pytest
import torch
from torch import nn

from fcmae.errors import UserError
from fcmae.runs import checkpoint as ckpt
from fcmae.runs.find import AVERAGE, OPTIMIZER_SHARDS, last_checkpoint, read_state
from fcmae.runs.state import damaged_file, write_state


def make_run(folder: Path, steps: int = 3) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    for step in range(1, steps + 1):
        ckpt.save_checkpoint(folder, model, {}, optimizer, ckpt.TrainState(step, 4, 10))
    return model, optimizer


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def advice(run: Path, whole: int) -> str:
    checkpoints = run / "checkpoints"
    return (
        f"; {checkpoints}/step-0000000{whole} is whole: to resume from it, move step-00000003 elsewhere, delete "
        f"{checkpoints}/last, and repeat the command"
    )


@pytest.mark.parametrize("name", [ckpt.STATE, ckpt.MODEL, ckpt.OPTIMIZER])
def test_a_damaged_file_is_named_with_the_newest_that_is_whole(tmp_path: Path, name: str) -> None:
    model, optimizer = make_run(tmp_path)
    checkpoints = tmp_path / "checkpoints"
    cut(checkpoints / "step-00000003" / name)
    with pytest.raises(UserError) as error:
        ckpt.load_checkpoint(ckpt.resolve_checkpoint(tmp_path), model, optimizer)
    assert str(checkpoints / "step-00000003" / name) in str(error.value)
    assert str(error.value).endswith(advice(tmp_path, 2))
    cut(checkpoints / "step-00000002" / name)
    with pytest.raises(UserError) as error:
        ckpt.load_checkpoint(ckpt.resolve_checkpoint(tmp_path), model, optimizer)
    assert str(error.value).endswith(advice(tmp_path, 1))


@pytest.mark.parametrize("name", [ckpt.STATE, ckpt.MODEL, ckpt.OPTIMIZER])
def test_the_advice_works(tmp_path: Path, name: str) -> None:
    model, optimizer = make_run(tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    cut(checkpoints / "step-00000003" / name)
    assert last_checkpoint(tmp_path / "run") == checkpoints / "step-00000003"  # no silent fallback
    (checkpoints / "step-00000003").rename(tmp_path / "elsewhere")
    (checkpoints / "last").unlink()
    found = last_checkpoint(tmp_path / "run")
    assert found == checkpoints / "step-00000002"
    assert ckpt.load_checkpoint(found, model, optimizer).step == 2


def test_without_the_pointer_the_newest_whole_one_is_taken(tmp_path: Path) -> None:
    make_run(tmp_path)
    checkpoints = tmp_path / "checkpoints"
    (checkpoints / "last").unlink()
    for step, name in ((3, ckpt.MODEL), (2, ckpt.OPTIMIZER)):
        cut(checkpoints / f"step-0000000{step}" / name)
    assert last_checkpoint(tmp_path) == checkpoints / "step-00000001"


def test_the_average_of_the_weights_counts(tmp_path: Path) -> None:
    """Where a run keeps one: its loss is found here, not when a resumed run loads it."""
    model, optimizer = make_run(tmp_path)
    for step in (4, 5):
        ckpt.save_checkpoint(tmp_path, model, {}, optimizer, ckpt.TrainState(step, 4, 10), average=model)
    checkpoints = tmp_path / "checkpoints"
    cut(checkpoints / "step-00000005" / AVERAGE)
    (checkpoints / "last").unlink()
    assert last_checkpoint(tmp_path) == checkpoints / "step-00000004"
    with pytest.raises(UserError, match=r"average\.safetensors cannot be read: .*step-00000004 is whole$"):
        ckpt.load_checkpoint(checkpoints / "step-00000005", model, optimizer, average=model)


@pytest.mark.parametrize("name", [ckpt.MODEL, AVERAGE, ckpt.OPTIMIZER])
def test_a_bit_that_flipped_among_the_numbers(tmp_path: Path, name: str) -> None:
    """The file can be read, and only its checksum tells; the newest whole one is named."""
    model, optimizer = make_run(tmp_path)
    checkpoints = tmp_path / "checkpoints"
    for step in (4, 5, 6):
        ckpt.save_checkpoint(tmp_path, model, {}, optimizer, ckpt.TrainState(step, 4, 10), average=model)
    damaged = [checkpoints / f"step-0000000{step}" for step in (5, 6)]
    for folder in damaged:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        ckpt.load_checkpoint(damaged[1], model, optimizer, average=model)
    assert str(error.value) == (
        f"{damaged[1] / name} cannot be read: it was damaged after it was written; {checkpoints}/step-00000004 is "
        f"whole: to resume from it, move step-00000006 elsewhere, delete {checkpoints}/last, and repeat the command"
    )
    (checkpoints / "last").unlink()
    assert last_checkpoint(tmp_path) == checkpoints / "step-00000004"


def test_a_bit_that_flipped_in_a_share_of_the_state(tmp_path: Path) -> None:
    """Of a run whose optimizer's state is divided among processes."""
    folder = tmp_path / "checkpoints" / "step-00000003"
    shard = folder / OPTIMIZER_SHARDS / "__1_0.distcp"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(b"numbers")
    ckpt.write_state(folder, ckpt.TrainState(3, 4, 10))
    assert damaged_file(folder, read_state(folder)) is None
    shard.write_bytes(b"numberz")
    assert damaged_file(folder, read_state(folder)) == shard


def test_a_checkpoint_without_checksums_is_whole(tmp_path: Path) -> None:
    """Those of older versions."""
    model, optimizer = make_run(tmp_path)
    folder = tmp_path / "checkpoints" / "step-00000003"
    write_state(folder / ckpt.STATE, ckpt.TrainState(3, 4, 10))
    assert ckpt.load_checkpoint(folder, model, optimizer).step == 3


def test_one_that_is_not_the_newest_or_the_only_one(tmp_path: Path) -> None:
    make_run(tmp_path)
    checkpoints = tmp_path / "checkpoints"
    cut(checkpoints / "step-00000001" / ckpt.STATE)
    with pytest.raises(UserError, match=r"step-00000003 is whole$"):
        read_state(checkpoints / "step-00000001")
    for step in (2, 3):
        cut(checkpoints / f"step-0000000{step}" / ckpt.STATE)
    with pytest.raises(UserError, match=r"; no other checkpoint of this run is whole$"):
        read_state(checkpoints / "step-00000003")
    (checkpoints / "step-00000002").rename(tmp_path / "alone")
    with pytest.raises(UserError, match=r"is not a complete checkpoint: [^;]*$"):
        read_state(tmp_path / "alone")


def test_a_pointer_to_nothing_names_the_newest(tmp_path: Path) -> None:
    make_run(tmp_path)
    (tmp_path / "checkpoints" / "last").write_text("step-00000009")
    with pytest.raises(UserError, match=r"resume from the newest complete checkpoint, step-00000003$"):
        last_checkpoint(tmp_path)

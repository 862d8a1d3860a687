"""Several machines, which are here processes with the local rank 0: one run folder, or one on each."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fcmae.errors import UserError
from fcmae.pretrain import main
from fcmae.training import nodes
from tests.fcmae.finished_runs import Args, losses, weights
from tests.fcmae.small_runs import save_run
from tests.fcmae.training.forked import train

pytestmark = pytest.mark.usefixtures("_small_sizes")

OPTIONS = ["--train.batch_size", "2", "--train.epochs", "2", "--log.pictures_every", "2", "--log.pictures_count", "1"]


def test_local_run_folders(tiny_args: Args, tmp_path: Path) -> None:
    """Each holds the whole run. A machine that takes another's place is sent the checkpoint, also as the first one.

    One that is behind gets the metrics, too, and loses no line; a picture that one of them lacks is drawn again.
    """
    log = tmp_path / "log"
    assert main([*tiny_args("one", *OPTIONS), "--train.batch_size", "4"]) == 0
    a, b = (tiny_args(name, *OPTIONS) for name in "ab")
    text = train([a, b], log, local=[0, 0], stop=2)
    assert text.count("stopped at step 2 of 5; saved. To resume: torchrun --nproc-per-node 2 -m") == 1
    before = losses(tmp_path / "b")
    assert losses(tmp_path / "a") == before
    shutil.rmtree(tmp_path / "a")
    text = train([a, b], log, local=[0, 0])
    assert "step-00000002 is missing in --output on the machines of processes [0]: sent from process 1" in text
    one = torch.tensor(losses(tmp_path / "one"))
    for name in "ab":
        run = tmp_path / name
        assert losses(run)[:2] == before
        torch.testing.assert_close(torch.tensor(losses(run)), one, rtol=1e-5, atol=0)
        assert all(torch.equal(tensor, weights(run)[key]) for key, tensor in weights(tmp_path / "b").items())
        files = {str(file.relative_to(run)) for file in run.rglob("*")}
        assert not any(".node-" in file or ".partial" in file for file in files)
        assert {"config.yaml", "reconstructions/step-00000005.png", "checkpoints/last"} <= files
    metrics, picture = "metrics.jsonl", "reconstructions/step-00000005.png"
    old = (tmp_path / "a" / metrics).read_bytes().splitlines(keepends=True)[:2]
    shutil.rmtree(tmp_path / "a" / "checkpoints")
    (tmp_path / "a" / metrics).write_bytes(b"".join(old))
    (tmp_path / "a" / "metrics.superseded.jsonl").unlink(missing_ok=True)
    (tmp_path / "b" / picture).unlink()
    train([a, b], log, local=[0, 0])
    assert (tmp_path / "a" / metrics).read_bytes() == (tmp_path / "b" / metrics).read_bytes()
    assert (tmp_path / "a" / "metrics.superseded.jsonl").read_bytes() == b"".join(old)
    assert (tmp_path / "b" / picture).read_bytes() == (tmp_path / "a" / picture).read_bytes()


def test_a_checkpoint_by_its_path_must_be_on_each_machine(tiny_args: Args, tmp_path: Path) -> None:
    """One line from both processes, and nothing is written."""
    run = save_run(tmp_path / "before")
    args = [tiny_args("new", *OPTIONS, "--resume", str(path)) for path in (run, tmp_path / "missing")]
    text = train(args, tmp_path / "log", local=[0, 0], status=1)
    assert text.count("missing does not exist; give a run folder, or one of its checkpoints") == 2
    assert text.count("(on the machine of process 1)") == 2
    assert not (tmp_path / "new").exists()


def test_the_newest_checkpoint_has_most_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its name's place among words: from a hundred million steps on a name has nine digits."""
    found = [(f"step-{step}", None, True) for step in (99999999, 100000000)]
    monkeypatch.setattr(nodes, "gather_object", lambda _: found)
    accelerator: Any = SimpleNamespace(num_processes=2)
    with pytest.raises(UserError, match="process 1 finds step-100000000, process 0 step-99999999"):
        nodes.agreed(accelerator, tmp_path, lambda: tmp_path / found[0][0], is_own=False)


def test_shards_need_one_folder(tiny_args: Args, tmp_path: Path) -> None:
    """Nothing is written before that is known: another run may begin there."""
    args = [[*tiny_args(name, *OPTIONS), "--train.parallel", "fsdp"] for name in "ab"]
    text = train(args, tmp_path / "log", local=[0, 0], status=1)
    assert "--train.parallel fsdp needs a run folder that all machines share" in text
    assert [one.name for name in "ab" for one in (tmp_path / name).iterdir() if one.name != ".lock"] == []


def test_a_file_that_appears_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a network drive, which shows it after a while."""
    late = tmp_path / "late"
    monkeypatch.setattr(nodes.time, "sleep", lambda _: late.touch())
    nodes.wait_for(late)
    monkeypatch.undo()
    assert not nodes.appears(tmp_path / "never", seconds=0.1)

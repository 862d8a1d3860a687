"""FSDP2: the losses of DDP and of one process; checkpoints for any number of processes, read as any other."""

from pathlib import Path

import pytest
import torch

import fcmae
from fcmae.pretrain import main
from fcmae.runs.checkpoint import resolve_checkpoint
from fcmae.runs.find import OPTIMIZER, OPTIMIZER_SHARDS, read_state
from tests.fcmae.finished_runs import Args, course, losses, metrics, stop_after, weights
from tests.fcmae.training.forked import train

pytestmark = pytest.mark.usefixtures("_small_sizes")

# 5 steps of 12 samples, which 1, 2 and 3 processes divide, in two micro-batches or more
OPTIONS = [
    *("--train.batch_size", "null", "--train.accumulation_steps", "2", "--train.effective_batch", "12"),
    *("--train.clip_grad", "0.1", "--model.checkpoint_stages", "0", "--train.epochs", "5"),
]


def test_the_number_of_processes_may_change(tiny_args: Args, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2 divide the network, 1 goes on, 3 divide it again; the losses are those of one process, up to rounding."""
    assert main(tiny_args("one", *OPTIONS)) == 0
    args, run = [*tiny_args("run", *OPTIONS), "--train.parallel", "fsdp"], tmp_path / "run"
    train([args] * 2, tmp_path / "log", stop=2)
    assert (resolve_checkpoint(run) / OPTIMIZER_SHARDS).is_dir()
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        assert main(args) == 0
    assert (resolve_checkpoint(run) / OPTIMIZER).is_file()
    text = train([args] * 3, tmp_path / "log")
    assert "resuming from" in text
    one, several = losses(tmp_path / "one"), losses(run)
    assert len(several) == 5
    torch.testing.assert_close(torch.tensor(several), torch.tensor(one), rtol=1e-5, atol=0)


def test_resume_is_exact_and_the_weights_are_whole(tiny_args: Args, tmp_path: Path) -> None:
    """With drop path, measurements and pictures, which need the whole network; every command reads the weights."""
    options = [
        *OPTIONS, "--model.drop_path_rate", "0.3", "--monitor.holdout", "0.1", "--monitor.every", "5",
        "--log.pictures_every", "5", "--log.pictures_count", "1", "--monitor.images", "2", "--train.parallel", "fsdp",
    ]  # fmt: skip
    for name, stop in (("whole", 0), ("stopped", 2), ("stopped", 0)):
        train([tiny_args(name, *options)] * 2, tmp_path / "log", stop=stop)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert course(stopped) == course(whole)
    assert all(torch.equal(weights(stopped)[name], tensor) for name, tensor in weights(whole).items())
    assert [line["step"] for line in metrics(whole) if "holdout_loss" in line] == [0, 4]
    assert (whole / "reconstructions" / "step-00000004.png").is_file()
    last = resolve_checkpoint(whole)
    assert {f"{OPTIMIZER_SHARDS}/{file.name}" for file in (last / OPTIMIZER_SHARDS).iterdir()} <= set(
        read_state(last).checksums
    )
    loaded = fcmae.FCMAE.from_pretrained(whole).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights(whole).items())

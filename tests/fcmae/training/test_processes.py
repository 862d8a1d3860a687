"""Processes of a run: signals, kill -9, torchrun and accelerate. Those that are forked train the small network."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fcmae.pretrain import main
from fcmae.runs import checkpoint as ckpt
from tests.fcmae import forked
from tests.fcmae.finished_runs import ROOT, SHORT, Args, gradient_difference, losses, metrics
from tests.fcmae.forked import train_together


def command(args: list[str], *launcher: str) -> list[str]:
    return [sys.executable, *(launcher or ("-m",)), "fcmae.pretrain", *args]


def start(args: list[str], *launcher: str) -> subprocess.Popen:
    return subprocess.Popen(
        command(args, *launcher), cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for_lines(run: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").is_file() or len((run / "metrics.jsonl").read_text().splitlines()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


LONG = ["--train.epochs", "400", "--data.num_workers", "2", "--log.checkpoint_every", "2"]


@pytest.mark.usefixtures("small_network")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_save_and_say_how_to_go_on(tiny_args: Args, tmp_path: Path, number: signal.Signals) -> None:
    """The signal goes to the whole process group, workers included, as a terminal's Ctrl-C does."""
    process = forked.start("fcmae.pretrain", tiny_args("run", *LONG), tmp_path / "log")
    run = tmp_path / "run"
    wait_for_lines(run, 3)
    os.killpg(process.pid or 0, number)
    process.join(60)
    text = (tmp_path / "log").read_text()
    assert process.exitcode == 0, text
    assert "Traceback" not in text
    steps = metrics(run)[-1]["step"]
    go_on = f"{sys.executable} -m fcmae.pretrain --config {run}/config.yaml"
    assert f"stopped at step {steps} of 1000; saved. To resume: {go_on}" in text
    assert ckpt.read_state(ckpt.resolve_checkpoint(run)).step == steps
    assert main(["--config", f"{run}/config.yaml", "--train.epochs", str(-(-(steps + 3) * 4 // 10))]) == 0
    assert [m["step"] for m in metrics(run)] == list(range(1, len(metrics(run)) + 1))


@pytest.mark.usefixtures("small_network")
def test_a_killed_run_goes_on_from_its_last_checkpoint(tiny_args: Args, tmp_path: Path) -> None:
    """kill -9, then resume: every step once in metrics.jsonl, the same losses as never killed, nothing thrown away."""
    process = forked.start("fcmae.pretrain", tiny_args("run", *LONG), tmp_path / "log")
    run = tmp_path / "run"
    wait_for_lines(run, 13)
    os.killpg(process.pid or 0, signal.SIGKILL)
    process.join()
    saved = ckpt.read_state(ckpt.resolve_checkpoint(run)).step
    assert saved % 5 == 0
    before = losses(run)
    (run / "checkpoints" / ".partial-step-00000999").mkdir()  # what a death in mid-checkpoint leaves
    assert main([*tiny_args("run", *LONG), "--train.epochs", "20"]) == 0
    after = losses(run)
    assert [s for s, _ in after] == list(range(1, 51))
    assert after[:saved] == before[:saved]
    lost = before[saved:]
    superseded = run / "metrics.superseded.jsonl"
    kept = [json.loads(line)["step"] for line in superseded.read_text().splitlines()] if superseded.is_file() else []
    assert kept == [s for s, _ in lost]
    assert not list((run / "checkpoints").glob(".partial*"))


def launch(args: list[str], *launcher: str) -> str:
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command(args, *launcher), cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")


@pytest.mark.usefixtures("small_network")
def test_two_processes_train_as_one(tiny_args: Args, image_folder: Path, tmp_path: Path) -> None:
    """The same samples a step, gradients averaged over both; what either cannot read is named once."""
    shutil.copytree(image_folder, tmp_path / "images")
    broken = tmp_path / "images" / "a" / "0.png"
    broken.write_bytes(broken.read_bytes()[:100])
    options = (*SHORT, "--data.path", str(tmp_path / "images"))
    assert main(tiny_args("one", *options)) == 0
    args = tiny_args("two", *options, "--train.batch_size", "1", "--train.accumulation_steps", "2")
    text = train_together("fcmae.pretrain", args, tmp_path / "log")
    assert "2 × cpu" in text
    assert text.count(f"skipped, cannot be read: {broken}") == 1
    assert metrics(tmp_path / "two")[-1]["unreadable_images"] == 1
    assert text.count("done: 3 steps") == 1
    assert gradient_difference(tmp_path / "two", tmp_path / "one") < 1e-4
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    torch.testing.assert_close(torch.tensor(one), torch.tensor(two), rtol=1e-5, atol=0)


@pytest.mark.usefixtures("small_network")
def test_two_processes_share_an_effective_batch_and_one_goes_on(tiny_args: Args, tmp_path: Path) -> None:
    """Warned of the learning rate once; RUN/config.yaml resumes on another number of processes."""
    args = [*tiny_args("two", *SHORT), "--train.batch_size", "null", "--train.effective_batch", "4"]
    text = train_together("fcmae.pretrain", [*args, "--train.base_lr", "1e-3"], tmp_path / "log")
    assert text.count("4 images per step: --train.batch_size 2 × --train.accumulation_steps 1 × 2 processes") == 1
    assert text.count("a peak learning rate of ") == 1
    assert main(["--config", str(tmp_path / "two" / "config.yaml"), "--train.epochs", "2"]) == 0
    assert [m["step"] for m in metrics(tmp_path / "two")] == [1, 2, 3, 4, 5]


def test_two_processes_stop_together_and_go_on(tiny_args: Args, tmp_path: Path) -> None:
    """SIGTERM reaches one process of two; both stop after the same step, and the run goes on from there."""
    args = [*tiny_args("run", *LONG, "--train.batch_size", "2"), "--data.num_workers", "0"]
    process = start(args, *TORCHRUN)
    wait_for_lines(tmp_path / "run", 3)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGTERM)
    _, text = process.communicate(timeout=120)
    assert process.returncode == 0, text[-3000:]
    run = tmp_path / "run"
    saved = ckpt.read_state(ckpt.resolve_checkpoint(run)).step
    assert text.count(f"stopped at step {saved} of 1000; saved. To resume: torchrun --nproc-per-node 2 -m") == 1
    assert [m["step"] for m in metrics(run)] == list(range(1, saved + 1))
    epochs = str(-(-(saved + 3) * 4 // 10))
    assert main([*args, "--train.batch_size", "4", "--train.epochs", epochs]) == 0  # on one process
    assert [m["step"] for m in metrics(run)] == list(range(1, len(metrics(run)) + 1))


def test_accelerate_launch(tiny_args: Args, tmp_path: Path) -> None:
    assert main(tiny_args("plain", *SHORT)) == 0
    launch(tiny_args("launched", *SHORT), "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "-m")
    assert gradient_difference(tmp_path / "launched", tmp_path / "plain") < 1e-4

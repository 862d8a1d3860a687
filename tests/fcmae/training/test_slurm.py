"""examples/slurm.sh, with stand-ins for SLURM's commands, on two machines that are this one."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch

from fcmae.pretrain import main
from tests.fcmae.finished_runs import ROOT, Args, losses

SCRIPT = ROOT / "examples" / "slurm.sh"
COMMANDS = ("sbatch", "srun", "scontrol", "scancel")


@pytest.fixture
def stubs(tmp_path: Path) -> Path:
    """A folder with the commands; what they are asked comes to the file ``asked`` there."""
    folder = tmp_path / "stubs"
    folder.mkdir()
    for name in COMMANDS:
        (folder / name).symlink_to(Path(__file__).with_name("stub_slurm.sh"))
    return folder


@pytest.fixture
def submit(stubs: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts the script; what is left of its processes after the test is killed."""
    jobs: list[subprocess.Popen] = []

    def start(python: str, args: list[str], **environment: str) -> subprocess.Popen:
        jobs.append(_submit(stubs, python, args, **environment))
        return jobs[-1]

    yield start
    for job in jobs:
        with suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        job.wait()


def _submit(stubs: Path, python: str, args: list[str], **environment: str) -> subprocess.Popen:
    env = os.environ | {"PATH": f"{stubs}:{os.environ['PATH']}", "STUBS": str(stubs), "PYTHON": python} | environment
    command = ["sbatch", str(SCRIPT), *args]
    log = (stubs / "log").open("ab")
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True)


def free_port_number() -> int:
    """A job whose number gives a port that is free."""
    while True:
        job = random.randrange(20000)
        with socket.socket() as listening, suppress(OSError):
            listening.bind(("127.0.0.1", 20000 + job))
            return job


def wait_for(what: object, seconds: float = 120) -> None:
    """Until a function returns something true."""
    deadline = time.monotonic() + seconds
    while not what():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_script_parses() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)


@pytest.mark.parametrize(("status", "signaled", "requeued"), [(0, True, True), (1, True, False), (0, False, False)])
def test_a_run_that_is_saved_in_time_is_requeued(
    stubs: Path, submit: Callable[..., subprocess.Popen], tmp_path: Path, status: int, signaled: bool, requeued: bool
) -> None:
    """The warning reaches the training processes and not torchrun. An error, or a whole run, is not requeued.

    The run is saved while scancel, which takes its time, has not come back.
    """
    python = tmp_path / "python"
    trained = (
        f"import signal, sys, time; signal.signal(signal.SIGUSR1, lambda *_: sys.exit({status})); "
        f"print('ready', file=open('$STUBS/ready', 'a')); time.sleep({60 if signaled else 0.1})"
    )
    # as torchrun, which starts a process that installs a handler
    python.write_text(f'#!/bin/bash\necho "$@" >> "$STUBS/started"\n{sys.executable} -c "{trained}" &\nwait $!\n')
    python.chmod(0o755)
    job = submit(str(python), ["--output", "a run"], SCANCEL_TAKES="1")
    wait_for(lambda: (stubs / "ready").is_file() and (stubs / "ready").read_text().count("ready") == 2)
    if signaled:
        job.send_signal(signal.SIGUSR1)
    assert job.wait(30) == status, (stubs / "log").read_text()
    asked = (stubs / "asked").read_text().splitlines() if (stubs / "asked").is_file() else []
    assert asked == ["--signal=USR1 7"] * signaled + ["requeue 7"] * requeued
    started = (stubs / "started").read_text().splitlines()
    assert len(started) == 2
    assert started[0] == (
        "-m torch.distributed.run --nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint 127.0.0.1:20007 "
        "--rdzv-id 7 --max-restarts 3 -m fcmae.pretrain --output a run"
    )


def test_a_process_and_then_a_machine_are_killed(
    tiny_args: Args, tmp_path: Path, stubs: Path, submit: Callable[..., subprocess.Popen]
) -> None:
    """torchrun goes on after the first; one process goes on after the second; the losses are those undisturbed."""
    options = ["--train.batch_size", "null", "--train.effective_batch", "4", "--train.epochs", "6"]
    assert main(tiny_args("whole", *options)) == 0
    run, long = tmp_path / "run", tiny_args("run", *options)
    job = submit(sys.executable, long, SLURM_JOB_ID=str(free_port_number()))

    def steps() -> int:
        file = run / "metrics.jsonl"
        return len(file.read_bytes().splitlines()) if file.is_file() else 0

    def processes(node: int) -> list[psutil.Process]:
        """torchrun of a machine and the training process that it started."""
        launcher = psutil.Process(int((stubs / f"node{node}").read_text()))
        return [launcher, *launcher.children()]

    wait_for(lambda: steps() >= 3)
    processes(1)[1].kill()
    wait_for(lambda: len((run / "starts.jsonl").read_text().splitlines()) == 2)
    before = json.loads((run / "starts.jsonl").read_text().splitlines()[1])["step"]
    wait_for(lambda: steps() > before)
    (alone, training), gone = processes(0), processes(1)
    for one in gone:
        one.kill()
    killed = time.monotonic()
    training.wait(60)
    assert time.monotonic() - killed < 60
    with suppress(psutil.NoSuchProcess):  # torchrun waits for the machine to come back, unless that had the store
        for one in [*alone.children(), alone]:  # as SLURM does when a machine fails
            one.kill()
    assert job.wait(30) != 0
    assert not (stubs / "asked").exists()
    assert main(long) == 0
    torch.testing.assert_close(torch.tensor(losses(run)), torch.tensor(losses(tmp_path / "whole")), rtol=1e-5, atol=0)

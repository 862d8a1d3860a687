"""The processes of a run end together: when one of them is killed, or the launcher, wherever the others wait."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def wait_in_training(watching: "Peers", accelerator: "Accelerator") -> None:  # type: ignore[name-defined]  # noqa: F821
    """Steps that end when a signal has come."""
    from fcmae.training.console import TrainingProgress, signals_as_question

    with signals_as_question(accelerator, TrainingProgress(10**6, 0, 1, shown=False)) as is_asked_to_stop:
        while not is_asked_to_stop():
            time.sleep(0.05)
        watching.part()


def wait_elsewhere(watching: "Peers", accelerator: "Accelerator") -> None:  # type: ignore[name-defined]  # noqa: F821
    """As in a collective operation of NCCL, which notices no death."""
    time.sleep(3600)


def wait_at_the_end(watching: "Peers", accelerator: "Accelerator") -> None:  # type: ignore[name-defined]  # noqa: F821
    """In the last barrier, and it notices no death."""
    watching._wait_for_everyone = lambda: time.sleep(3600)
    watching.part()


# what the two processes do, which process is killed, and the exit statuses of the others
SCENARIOS: dict[str, tuple[Callable, str, list[int]]] = {
    "a process while they train": (wait_in_training, "rank 1", [1]),
    "a process that the other waits for": (wait_elsewhere, "rank 1", [1]),
    "the main process": (wait_elsewhere, "rank 0", [1]),
    "a process before the last barrier": (wait_at_the_end, "rank 1", [1]),
    "the launcher while they train": (wait_in_training, "launcher", [0, 0]),  # as if by SIGTERM: both save
    "the launcher while they wait": (wait_elsewhere, "launcher", [-signal.SIGTERM, -signal.SIGTERM]),
}


def rank(number: int, launcher: int, port: int, ready: int, what: Callable) -> None:
    """One process of a run, a fork of one that has imported everything."""
    from accelerate import Accelerator

    from fcmae.training import peers

    os.environ |= {
        "RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "none",
    }  # fmt: skip
    peers.LAUNCHER = launcher
    watching = peers.Peers()
    accelerator = Accelerator(cpu=True)
    watching.meet(accelerator)
    os.write(ready, b"+")
    what(watching, accelerator)


def start(what: Callable) -> tuple[dict[str, int], int]:
    """Numbers of a launcher and of the two processes that it started, which have met; and where the statuses come."""
    from fcmae.cli.command import end, exit_status

    ready, met = os.pipe()
    statuses, told = os.pipe()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    launcher = os.fork()
    if launcher == 0:
        for number in (0, 1):
            # a process in between outlives the launcher and tells how its child ended
            if os.fork() == 0:
                me, child = os.getppid(), os.fork()
                if child == 0:
                    end(exit_status("test", lambda: rank(number, me, port, met, what)))  # noqa: B023
                os.write(met, f"{number} {child}\n".encode())
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                os.write(told, json.dumps([number, code]).encode() + b"\n")
                os._exit(0)
        time.sleep(3600)
    os.close(met), os.close(told)
    said = b""
    while said.count(b"+") < 2:
        said += os.read(ready, 1000)
    pids = dict(line.split() for line in said.replace(b"+", b"").splitlines())
    return {"launcher": launcher, "rank 0": int(pids[b"0"]), "rank 1": int(pids[b"1"])}, statuses


def main() -> None:
    """Run all scenarios at once, and print the statuses of each."""
    import accelerate  # noqa: F401  # before any fork

    import fcmae.training.console
    import fcmae.training.peers  # noqa: F401

    running = {name: start(what) for name, (what, _, _) in SCENARIOS.items()}
    for name, (pids, _) in running.items():
        os.kill(pids[SCENARIOS[name][1]], signal.SIGKILL)
    for name, (pids, statuses) in running.items():
        with os.fdopen(statuses) as opened:
            ended = dict(json.loads(opened.readline()) for _ in range(2))
        codes = [code for number, code in sorted(ended.items()) if f"rank {number}" != SCENARIOS[name][1]]
        sys.stdout.write(f"{json.dumps([name, codes])}\n")
        if SCENARIOS[name][1] != "launcher":
            os.kill(pids["launcher"], signal.SIGKILL)


@pytest.fixture(scope="module")
def ended() -> dict[str, list[int]]:
    code = "from tests.fcmae.training.test_peers import main; main()"
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(map(json.loads, done.stdout.splitlines()))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes of the test are forked")
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_when_it_is_killed_the_others_end(ended: dict[str, list[int]], scenario: str) -> None:
    assert ended[scenario] == SCENARIOS[scenario][2]

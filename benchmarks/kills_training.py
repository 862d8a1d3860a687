"""A training process for benchmarks.kills: a command, which runs out of memory once a file asks it to.

Processes are forked from one that has imported everything, because importing takes longer than the training. Nobody
starts them but benchmarks.kills.
"""

import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import torch

from fcmae import finetune, pretrain
from fcmae.cli.command import end
from fcmae.data import samples
from fcmae.finetuning import samples as labeled
from fcmae.finetuning import setup  # noqa: F401  # before any fork, as the next
from fcmae.sparse.backends import numba  # noqa: F401
from fcmae.training import loop, peers

TRIGGER = "KILLS_TRIGGER"
"""The environment variable with the start of the files' names; it also marks the processes of torchrun."""


COMMANDS = {
    "pretrain": (pretrain.main, samples.PretrainDataset), "finetune": (finetune.main, labeled.LabeledSamples)
}  # fmt: skip


def train(args: list[str]) -> NoReturn:
    """Train as a command does, in this process: its name, and its arguments."""
    rank, trigger = os.environ.get("RANK", "0"), os.environ[TRIGGER]
    main, dataset = COMMANDS[args[0]]
    get, step, meet = dataset.__getitem__, loop._train_step, peers.Peers.meet

    def failing_get(self: Any, key: tuple[int, int]) -> Any:
        if os.path.exists(f"{trigger}-loading"):
            bytearray(2**60)
        return get(self, key)

    def failing_step(*args: Any) -> torch.Tensor:
        if os.path.exists(f"{trigger}-training{rank}"):
            torch.empty(2**50)
        return step(*args)

    def noted_meet(self: Any, accelerator: Any) -> None:
        meet(self, accelerator)
        Path(f"{trigger}-met{os.getpid()}").touch()

    dataset.__getitem__, loop._train_step = failing_get, failing_step  # type: ignore[method-assign]
    peers.Peers.meet = noted_meet  # type: ignore[method-assign]
    end(main(args[1:]))


class Forked:
    """Training processes, each a fork of this one in a session of its own.

    Once they have met they end each other. Before, that is up to whoever started them, as with torchrun: here
    :meth:`poll`.
    """

    def __init__(self, args: list[str], processes: int, log: Path, trigger: Path) -> None:
        self.pids: list[int] = []
        self.left, self.returncode, port = set[int](), 0, _free_port()
        self._trigger = trigger
        for rank in range(processes):
            pid = os.fork()
            if pid == 0:
                os.setsid()
                descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(descriptor, 1), os.dup2(descriptor, 2)
                os.environ |= {TRIGGER: str(trigger), "CUDA_VISIBLE_DEVICES": ""}
                if processes > 1:
                    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes),
                                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
                train(args)  # leaves by SystemExit
            self.pids.append(pid)
        self.left.update(self.pids)

    def poll(self) -> int | None:
        """The largest exit status once all have ended, 128 + signal for a signal."""
        for pid in list(self.left):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self.left.remove(pid)
                code = os.waitstatus_to_exitcode(status)
                self.returncode = max(self.returncode, 128 - code if code < 0 else code)
        if self.returncode:
            for pid in self.left:
                if not os.path.exists(f"{self._trigger}-met{pid}"):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGTERM)
        return None if self.left else self.returncode

    def wait(self) -> int:
        """Wait for all to end."""
        while self.poll() is None:
            time.sleep(0.02)
        return self.returncode


def _free_port() -> int:
    """A port that nothing listens at."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


if __name__ == "__main__":
    train(sys.argv[1:])

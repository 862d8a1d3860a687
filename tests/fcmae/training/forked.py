"""Processes of a run without a launcher: forks of a server that has imported everything, which takes seconds."""

import multiprocessing
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.fcmae.analysis.literal import SMALL_CONVNEXT
from tests.fcmae.finished_runs import stop_after
from tests.fcmae.forked import CONTEXT


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def _process(args: Sequence[str], environment: Mapping[str, str], log: str, stop: int) -> None:
    multiprocessing.set_start_method("fork", force=True)  # of loading processes, as of a command
    os.environ |= environment
    sys.stderr = open(log, "a", buffering=1)  # noqa: SIM115
    import torch

    from fcmae.models import sizes
    from fcmae.pretrain import main
    from fcmae.training import nodes

    nodes.TO_APPEAR = 1.0
    torch.set_num_threads(1)
    sizes.SIZES |= {"convnextv2_atto": sizes.Size(**SMALL_CONVNEXT, conv_mlp=True)}
    if stop:
        stop_after(pytest.MonkeyPatch(), stop)
    sys.exit(main(args))


def train(
    arguments: Sequence[Sequence[str]], log: Path, local: Sequence[int] | None = None, stop: int = 0, status: int = 0
) -> str:
    """Run ``fcmae pretrain`` in a process for each list of arguments; returns what they said.

    Its convnextv2_atto is as small as that of the fixture ``_small_sizes``.

    Args:
        arguments: of each process.
        log: file that they write to.
        local: their local ranks; several zeros are several machines. By default they are on one.
        stop: a signal stops them after so many steps; 0: none.
        status: with which all must end.
    """
    port, world = free_port(), len(arguments)
    log.write_text("")
    processes = []
    for rank, args in enumerate(arguments):
        local_rank = rank if local is None else local[rank]
        environment = {
            "RANK": str(rank), "LOCAL_RANK": str(local_rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": "",
        }  # fmt: skip
        processes.append(CONTEXT.Process(target=_process, args=(args, environment, str(log), stop)))
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        if process.is_alive():
            process.kill()
    text = log.read_text()
    assert [process.exitcode for process in processes] == [status] * world, text[-3000:]
    return text

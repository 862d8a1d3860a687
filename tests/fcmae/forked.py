"""Commands in processes of their own, forked from one that has imported everything: that takes longer than their runs.

Signals, process groups, exit status and the exchange between processes are as of a command; how Python and torchrun
start one is for other tests.
"""

import importlib
import multiprocessing
import operator
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.fcmae.small_runs import shrink

IMPORTED = [
    "fcmae.pretrain", "fcmae.finetune", "fcmae.training.setup", "fcmae.training.whole", "fcmae.finetuning.setup",
    "fcmae.runs.shards", "fcmae.sparse.backends.numba", "tests.fcmae.training.recorded", "benchmarks.kills",
]  # fmt: skip

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__, *IMPORTED])


def start(
    module: str,
    args: Sequence[str],
    log: Path,
    environment: Mapping[str, str] | None = None,
    is_small: bool = True,
    prepare: Callable[[], None] | None = None,
) -> BaseProcess:
    """``python -m MODULE ARGS`` in a session of its own; its output is appended to ``log``.

    ``is_small``: with the small network in the place of atto, which timm, and so fine-tuning, does not have.
    ``prepare`` is called in the process first.
    """
    process = CONTEXT.Process(
        target=_run, args=(module, list(args), str(log), dict(environment or {}), is_small, prepare)
    )
    process.start()
    return process


def train_together(
    module: str,
    args: Sequence[str],
    log: Path,
    count: int = 2,
    is_small: bool = True,
    timeout: float = 300,
    prepare: Callable[[], None] | None = None,
    status: int = 0,
) -> str:
    """The same in several processes that exchange gradients, as torchrun starts them; returns what they said.

    AssertionError if one ends with another status, or does not end.
    """
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    of_each = [shared | {"RANK": str(n), "LOCAL_RANK": str(n)} for n in range(count)]
    ranks = [start(module, args, log, environment, is_small, prepare) for environment in of_each]
    deadline = time.monotonic() + timeout
    for process in ranks:
        process.join(max(0, deadline - time.monotonic()))
        if process.exitcode is None:
            process.kill()
    said = log.read_text()
    assert [process.exitcode for process in ranks] == [status] * count, said[-3000:]
    return said


def _run(
    module: str,
    args: list[str],
    log: str,
    environment: dict[str, str],
    is_small: bool,
    prepare: Callable[[], None] | None,
) -> None:
    import torch

    from fcmae.training import peers

    multiprocessing.set_start_method("fork", force=True)  # of loading processes, as of a command; not this one's own
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1), os.dup2(output, 2)
    os.environ |= environment
    peers.LAUNCHER = os.getppid()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    if prepare is not None:
        prepare()
    if is_small:
        shrink(operator.setitem)
    sys.exit(importlib.import_module(module).main(args))

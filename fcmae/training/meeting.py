"""The processes that torchrun has started anew meet each other, and not what those before them left behind.

torchrun keeps one store for all starts, in which processes leave their addresses. One that comes first after a restart
would find the address of a process that is gone, and wait for it until a time limit ends the run. So the processes
agree on a name that no earlier start has used, and leave their addresses under it.
"""

import json
import os
import time
import uuid
from collections.abc import Callable
from datetime import timedelta

import torch.distributed as dist

from fcmae.errors import UserError

TO_MEET = 600.0  # seconds; machines may start minutes apart
BETWEEN_LOOKS = 0.05  # seconds
PREFIX = "fcmae/meeting"


def meet(backend: str) -> None:
    """Start torch's process group, where torchrun has its store; elsewhere accelerate does so as usual.

    Args:
        backend: of the process group.

    Raises:
        UserError: another process did not come.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or dist.is_initialized():
        return
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = dist.TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, wait_for_workers=False,
        timeout=timedelta(seconds=TO_MEET),
    )  # fmt: skip
    name = agree(store, rank, world_size)
    dist.init_process_group(backend, store=dist.PrefixStore(name, store), rank=rank, world_size=world_size)


def agree(store: dist.Store, rank: int, world_size: int, seconds: float = TO_MEET) -> str:
    """A new name, the same for all processes that are there now. All of them must call it.

    Each process leaves a word of its own. The first process proposes a name to those whose words it finds, as often as
    it finds others, and lets them go once all have agreed to the last. A word of a process that is gone gets no answer.

    Args:
        store: that all of them reach; that of earlier starts.
        rank: number of this process.
        world_size: number of processes.
        seconds: to wait.

    Raises:
        UserError: another process did not come.
    """
    store = dist.PrefixStore(PREFIX, store)
    step = _propose(store, world_size) if rank == 0 else _accept(store, rank)
    deadline = time.monotonic() + seconds
    while (name := step()) is None:
        if time.monotonic() > deadline:
            raise UserError(f"the {world_size} processes of this run did not meet within {seconds:g} s")
        time.sleep(BETWEEN_LOOKS)
    return name


def _propose(store: dist.Store, world_size: int) -> Callable[[], str | None]:
    others = range(1, world_size)
    words: list[str] | None = None
    name = ""

    def step() -> str | None:
        nonlocal words, name
        found = _read(store, [f"word/{rank}" for rank in others])
        if found is None:
            return None
        if found != words:
            words, name = found, uuid.uuid4().hex
            store.set("proposal", json.dumps([name, words]))
        if _read(store, [f"agreed/{rank}" for rank in others]) != [name] * len(others):
            return None
        store.set("go", name)
        return name

    return step


def _accept(store: dist.Store, rank: int) -> Callable[[], str | None]:
    word, agreed = uuid.uuid4().hex, ""
    store.set(f"word/{rank}", word)

    def step() -> str | None:
        nonlocal agreed
        proposal = _read(store, ["proposal"])
        if proposal is None:
            return None
        name, words = json.loads(proposal[0])
        if words[rank - 1 : rank] != [word]:
            return None  # of an earlier start
        if name != agreed:
            store.set(f"agreed/{rank}", name)
            agreed = name
        return name if _read(store, ["go"]) == [name] else None

    return step


def _read(store: dist.Store, keys: list[str]) -> list[str] | None:
    """The values; None if one is missing."""
    return [value.decode() for value in store.multi_get(keys)] if not keys or store.check(keys) else None

"""The processes that torchrun has started anew meet each other, and not what those before them left behind.

torchrun keeps one store for all starts, in which processes leave their addresses. One that comes first after a restart
would find the address of a process that is gone, and wait for it until a time limit ends the run. So the processes
agree on a name that no earlier start has used, and leave their addresses under it. TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
would have torchrun make a store for each start, but only who starts torchrun can set it.
"""

import os
import time
import uuid
from collections.abc import Callable
from datetime import timedelta

import torch.distributed as dist

from fcmae.errors import UserError

TO_MEET = 600.0  # seconds; torch is imported minutes later from a slow disk
LOOKS = 0.05, 0.5  # seconds between two looks: the first, the longest


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
    One that was ended without its launcher may live for seconds and write, too; so all look at what they have written.

    Args:
        store: that all of them reach; that of earlier starts.
        rank: number of this process.
        world_size: number of processes.
        seconds: to wait.

    Raises:
        UserError: another process did not come.
    """
    store = dist.PrefixStore(f"fcmae/meeting/{os.environ.get('TORCHELASTIC_RUN_ID', '')}", store)
    step = _propose(store, world_size) if rank == 0 else _accept(store, rank)
    deadline, pause = time.monotonic() + seconds, LOOKS[0]
    while (name := step()) is None:
        if time.monotonic() > deadline:
            raise UserError(f"the {world_size} processes of this run did not meet within {seconds:g} s")
        time.sleep(pause)
        pause = min(LOOKS[1], 1.1 * pause)
    return name


def _propose(store: dist.Store, world_size: int) -> Callable[[], str | None]:
    word_of, proposal_to, answer_of = (
        [f"{what}/{rank}" for rank in range(1, world_size)] for what in ("word", "proposal", "agreed")
    )
    name, proposed = "", list[str]()

    def step() -> str | None:
        nonlocal name, proposed
        words = _read(store, word_of)
        if words is None:
            return None
        if not name or _read(store, proposal_to) != proposed or [f"{name} {word}" for word in words] != proposed:
            name = uuid.uuid4().hex
            proposed = [f"{name} {word}" for word in words]
            for key, proposal in zip(proposal_to, proposed, strict=True):
                store.set(key, proposal)
        if _read(store, answer_of) != [name] * len(words):
            return None
        store.set("go", name)
        return name

    return step


def _accept(store: dist.Store, rank: int) -> Callable[[], str | None]:
    word, agreed = uuid.uuid4().hex, ""

    def step() -> str | None:
        nonlocal agreed
        if _read(store, [f"word/{rank}"]) != [word]:
            store.set(f"word/{rank}", word)
        proposal = _read(store, [f"proposal/{rank}"])
        if proposal is None:
            return None
        name, _, to = proposal[0].partition(" ")
        if to != word:
            return None  # of an earlier start
        if name != agreed:
            store.set(f"agreed/{rank}", name)
            agreed = name
        return name if _read(store, ["go"]) == [name] else None

    return step


def _read(store: dist.Store, keys: list[str]) -> list[str] | None:
    """The values; None if one is missing."""
    return [value.decode() for value in store.multi_get(keys)] if store.check(keys) else None

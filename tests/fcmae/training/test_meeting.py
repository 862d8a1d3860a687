"""Processes that are started anew in the store of earlier ones meet each other."""

import os
import threading
import time
from datetime import timedelta
from multiprocessing import get_context
from typing import Any

import pytest
import torch
import torch.distributed as dist

from fcmae.errors import UserError
from fcmae.training.meeting import agree, meet


@pytest.fixture
def store() -> dist.TCPStore:
    """As torchrun keeps one."""
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=30))


def together(store: dist.TCPStore, *ranks: int, world_size: int = 3, late: float = 0.0) -> dict[int, str]:
    """The names that processes, here threads, agree on. Those after the first come ``late``, one after the other."""
    names: dict[int, str] = {}

    def one(rank: int) -> None:
        own = dist.TCPStore("127.0.0.1", store.port, is_master=False, wait_for_workers=False)
        names[rank] = agree(own, rank, world_size, 30)

    threads = [threading.Thread(target=one, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
        time.sleep(late)
    for thread in threads:
        thread.join()
    return names


def test_each_start_has_a_name_of_its_own(store: dist.TCPStore) -> None:
    """Whoever comes first."""
    starts = [together(store, *order, late=0.1) for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2))]
    assert all(set(names) == {0, 1, 2} and len(set(names.values())) == 1 for names in starts)
    assert len({names[0] for names in starts}) == 3
    assert together(store, 0, world_size=1).keys() == {0}


def test_one_that_died_while_they_met_is_not_waited_for(store: dist.TCPStore) -> None:
    """Its word was there, so the first process proposed a name to it; then it was started anew."""
    dist.PrefixStore("fcmae/meeting/", store).set("word/1", "of one that is gone")
    names = together(store, 0, 2, 1, late=0.5)
    assert len(set(names.values())) == 1
    assert len(names) == 3


@pytest.mark.parametrize(
    ("order", "written"),
    [
        ((1, 2, 0), {"word/1": "of one that lives for seconds"}),
        ((0, 1, 2), {"proposal/1": "name word", "proposal/2": "name word", "go": "name"}),
    ],
)
def test_one_that_outlives_its_launcher_disturbs_for_a_while(
    store: dist.TCPStore, order: tuple[int, ...], written: dict[str, str]
) -> None:
    """It writes where the one that takes its place has written; that one writes again."""
    place = dist.PrefixStore("fcmae/meeting/", store)
    threading.Timer(0.75, lambda: [place.set(*one) for one in written.items()]).start()
    names = together(store, *order, late=0.5)
    assert len(set(names.values())) == 1
    assert names[0] != "name"


def test_one_that_does_not_come(store: dist.TCPStore) -> None:
    with pytest.raises(UserError, match=r"^the 2 processes of this run did not meet within 0\.2 s$"):
        agree(store, 0, 2, 0.2)
    with pytest.raises(UserError, match="did not meet"):
        agree(store, 1, 2, 0.2)


def join(rank: int, port: int, sums: Any) -> None:
    """One process of two; it ends without a word to the other."""
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip
    meet("gloo")
    found = torch.tensor(rank + 1)
    dist.all_reduce(found)
    sums.put(found.item())
    sums.close()
    sums.join_thread()
    os._exit(0)


def test_after_a_restart_nobody_waits_for_addresses_of_before(store: dist.TCPStore) -> None:
    """The process that comes first finds those of processes that are gone."""
    context = get_context("fork")
    sums = context.Queue()
    for order in ((0, 1), (1, 0), (0, 1)):
        processes = [context.Process(target=join, args=(rank, store.port, sums)) for rank in order]
        for process in processes:
            process.start()
            time.sleep(0.5)  # the first looks for the second
        assert [sums.get(timeout=30) for _ in processes] == [3, 3]
        for process in processes:
            process.join(30)

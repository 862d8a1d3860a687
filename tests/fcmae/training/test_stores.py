"""One process of a run cannot fetch its images: all raise, and one says why."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, get_ident
from typing import Any

import pytest

from fcmae.cli.command import exit_status
from fcmae.errors import OtherProcessError, StoreError
from fcmae.training import stores


def of_processes(monkeypatch: pytest.MonkeyPatch, calls: list[Callable[[], Any]]) -> list[Any]:
    """What :func:`stores.together` returns or raises in each of several processes, which are threads here."""
    ranks: dict[int, int] = {}
    said: list[Any] = [None] * len(calls)
    barrier = Barrier(len(calls))

    def gather(mine: list[Any]) -> list[Any]:
        (said[ranks[get_ident()]],) = mine
        barrier.wait(10)
        return said

    def work(rank: int) -> Any:
        ranks[get_ident()] = rank
        barrier.wait(10)  # one thread each
        try:
            return stores.together(calls[rank], len(calls))
        except StoreError as error:
            return error

    monkeypatch.setattr(stores, "gather_object", gather)
    monkeypatch.setattr(stores.dist, "get_rank", lambda: ranks[get_ident()])
    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(work, range(len(calls))))


def gone() -> None:
    raise StoreError("gone")


def test_all_raise_and_the_first_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert of_processes(monkeypatch, [lambda: 1, lambda: 2, lambda: 3]) == [1, 2, 3]
    found = of_processes(monkeypatch, [lambda: 1, gone, gone])
    assert [type(one) for one in found] == [OtherProcessError, StoreError, OtherProcessError]
    assert str(found[2]) == "process 1 of this run: gone"


def test_the_others_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    for error, lines in ((StoreError("gone"), ["x: error: gone"]), (OtherProcessError("gone"), [])):
        caplog.clear()

        def raising(error: Exception = error) -> None:
            raise error

        assert exit_status("x", raising) == 1
        assert caplog.messages == lines

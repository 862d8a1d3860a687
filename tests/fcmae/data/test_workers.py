"""Data loading processes end with the process that they load for, and not before."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing import Process, active_children
from pathlib import Path

import psutil
import pytest
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from fcmae.data.workers import _unless_gone, batches_of, serve_parent

ROOT = Path(__file__).parents[3]


class Slow(Dataset):
    """Items of a megabyte, each the number of the process that made it; after the first they take an hour."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> int:
        if index > 1:
            time.sleep(self.seconds)
        return os.getpid()


def loader(seconds: float = 0.0) -> DataLoader:
    return DataLoader(Slow(seconds), batch_size=None, num_workers=2, worker_init_fn=serve_parent)


def test_processes_end_with_the_block() -> None:
    with batches_of(loader()) as batches:
        next(batches)
        assert len(active_children()) == 2
    assert active_children() == []


def test_after_an_error_processes_are_killed_whatever_they_do() -> None:
    start = time.monotonic()
    with pytest.raises(ZeroDivisionError), batches_of(loader(3600)) as batches:  # noqa: PT012
        next(batches)
        raise ZeroDivisionError
    assert active_children() == []
    assert time.monotonic() - start < 30


def test_after_an_error_torch_does_not_remember_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It lists them by the id() of their iterator, which a later one may get."""
    listed: dict[int, tuple[int, ...]] = {}
    monkeypatch.setattr(signal_handling, "_set_worker_pids", listed.__setitem__)
    monkeypatch.setattr(signal_handling, "_remove_worker_pids", listed.__delitem__)
    with pytest.raises(ZeroDivisionError), batches_of(loader()):  # noqa: PT012
        (found,) = listed.values()
        assert set(found) == {process.pid for process in active_children()}
        raise ZeroDivisionError
    assert listed == {}


def test_processes_of_the_caller_live_on() -> None:
    """Also those that it starts while images are loaded."""
    with batches_of(loader()) as batches:
        next(batches)
        own = Process(target=time.sleep, args=(3600,), daemon=True)
        own.start()
    assert active_children() == [own]
    own.kill()
    own.join()


def test_signals_that_end_a_run_leave_them_alive() -> None:
    with batches_of(loader()) as batches:
        workers = {int(next(batches)), int(next(batches))}
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            for worker in workers:
                os.kill(worker, number)
        time.sleep(0.2)
        assert {int(next(batches)) for _ in range(20)} <= workers


def test_they_end_when_their_parent_is_killed() -> None:
    code = (
        "from tests.fcmae.data.test_workers import *\n"
        "with batches_of(loader(3600)) as batches:\n"
        "    print(int(next(batches)), int(next(batches)), flush=True)\n"
        "    time.sleep(3600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        workers = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
        assert len(workers) == 2
        process.kill()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert alive == []


def test_a_receiver_that_has_gone_is_no_news(capfd: pytest.CaptureFixture[str]) -> None:
    """Another loading process was killed, and the training process ended while this one handed over a batch."""
    for error in (ConnectionResetError(104, "reset"), EOFError(), ValueError("a bug")):
        _unless_gone(type(error), error, None)
    assert capfd.readouterr().err == "ValueError: a bug\n"


def test_loading_processes_use_it() -> None:
    class Hook(Dataset):
        def __getitem__(self, _index: int) -> bool:
            return sys.excepthook is _unless_gone

    with batches_of(DataLoader(Hook(), batch_sampler=[[0]], num_workers=1, worker_init_fn=serve_parent)) as batches:
        assert bool(next(batches)[0])
    assert sys.excepthook is not _unless_gone

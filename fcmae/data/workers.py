"""Data loading processes: they outlive the signals that stop a run, and never the process that they load for."""

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import active_children, get_start_method, parent_process
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from types import TracebackType
from typing import Any, TypeVar

from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from fcmae.errors import NO_OPEN_FILES, NO_SHARED_MEMORY, OPEN_FILES, SHARED

# Ctrl-C, the end of a job, a terminal that closes, a scheduler's warning (Windows has not all of them)
_ENDING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
ENDING_SIGNALS = tuple(getattr(signal, name) for name in _ENDING if hasattr(signal, name))
BETWEEN_LOOKS = 1.0  # seconds, of a loading process at its parent
TO_DIE = 3.0  # seconds; a process that waits for a dead network drive cannot be killed

T = TypeVar("T")

_running: set[BaseProcess] = set()


@dataclass(frozen=True)
class Arranged:
    """A loader whose processes return something other than batches, such as parts of several."""

    loader: DataLoader
    arrange: Callable[[Iterator[Any]], Iterator[Any]]
    """What they return → batches, in this process."""

    def __iter__(self) -> Iterator[Any]:
        return self.arrange(iter(self.loader))


@contextmanager
def batches_of(loader: Iterable[Any]) -> Iterator[Iterator[Any]]:
    """The loader's batches. When the block ends, so do the loading processes; after an error they are killed."""
    batches: Any = None
    workers: set[BaseProcess] = set()  # the caller may have other processes, which live on
    try:
        with _no_signals():  # until the new processes ignore them
            others = active_children()
            try:
                batches = iter(loader.loader if isinstance(loader, Arranged) else loader)
            finally:
                workers.update(process for process in active_children() if process not in others)
        _running.update(workers)
        yield loader.arrange(batches) if isinstance(loader, Arranged) else batches
        with suppress(AttributeError):  # no loading processes
            batches._shutdown_workers()
    except BaseException:
        _give_up(batches)
        raise
    finally:
        _kill(workers)


def _give_up(batches: Any) -> None:
    """Keep torch from waiting, when the iterator is deleted, for locks that a killed process may hold."""
    if getattr(batches, "_worker_pids_set", False):
        batches._shutdown = True
        signal_handling._remove_worker_pids(id(batches))  # another iterator may get this id
        batches._worker_pids_set = False


def mapped(items: Dataset[T], num_workers: int, at_once: int = 1) -> Generator[T]:
    """The items of a dataset in their order, made by ``num_workers`` processes (0: by this one).

    An item is sent pickled. The processes end with the iteration, also with one that is left early.
    """
    loader = DataLoader(
        items, batch_size=at_once, num_workers=num_workers, collate_fn=list, worker_init_fn=serve_parent
    )
    with batches_of(loader) as batches:
        for batch in batches:
            yield from batch


def serve_parent(_worker: int = 0) -> None:
    """For ``worker_init_fn``: ignore the signals that stop a run, and end when the parent is gone.

    Ctrl-C reaches the whole process group, but the training process needs its batches until it has saved.
    """
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    Queue._on_queue_feeder_error = staticmethod(_end_unsent)  # type: ignore[attr-defined]
    sys.excepthook = _unless_gone
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING_SIGNALS)
    end_with_parent()


def end_with_parent(_worker: int = 0) -> None:
    """For ``worker_init_fn``: end this process when the parent is gone, whatever it is doing.

    torch's own check comes between two batches, and a process that waits for room in a pipe never gets there.
    """
    threading.Thread(target=_watch_parent, name="watch-parent", daemon=True).start()


def _end_unsent(error: Exception, _batch: object) -> None:
    """A batch cannot be sent. Python would drop it with a traceback, and the training process would wait for it."""
    text = str(error)
    os._exit(NO_SHARED_MEMORY if SHARED.search(text) else NO_OPEN_FILES if OPEN_FILES.search(text) else 1)


def _unless_gone(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The hook for uncaught errors. One that a receiver's end causes is no news: that process has said why it ended.

    multiprocessing calls the hook from the thread that hands over the file descriptors of batches.
    """
    if not isinstance(error, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def _watch_parent() -> None:
    started_by = parent_process()
    # an orphan's parent is another process; a forked one may have become an orphan before this line
    parent = started_by.pid if started_by and get_start_method() == "fork" else os.getppid()
    # the sentinel is a pipe, which forked siblings may hold open too
    while started_by and not wait([started_by.sentinel], timeout=BETWEEN_LOOKS) and os.getppid() == parent:
        pass
    os._exit(1)


@contextmanager
def _no_signals() -> Iterator[None]:
    """Signals that end a run wait until the block has ended."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _kill(processes: Iterable[BaseProcess]) -> None:
    """Kill processes and wait for them, without torch's SIGCHLD handler, which would report a crash."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    listening = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if in_main_thread and os.name == "posix" else None
    killed = list(processes)
    for process in killed:
        process.kill()
    deadline = time.monotonic() + TO_DIE
    for process in killed:
        process.join(max(0.0, deadline - time.monotonic()))
    _running.difference_update(killed)
    if listening is not None:
        signal.signal(signal.SIGCHLD, listening)


def _kill_the_rest() -> None:
    _kill([process for process in _running if process.is_alive()])


# multiprocessing waits at exit, without end, for processes that ignore its SIGTERM
atexit.register(_kill_the_rest)

"""Ends a process of a run when another of its run, or the launcher that started it, has died.

Without this a process would wait in a collective operation for one that is gone: with NCCL for ten minutes.
"""

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import psutil
from accelerate import Accelerator
from accelerate.utils import gather_object

from fcmae.errors import UserError
from fcmae.training.heartbeats import Heartbeats, connect

logger = logging.getLogger(__name__)

BETWEEN_LOOKS = 0.5  # seconds
TO_END = 4.0  # seconds that the main thread has to end by itself, after an error of its collective operation
TO_SAVE = 7.0  # seconds to save when the launcher is gone
LAUNCHER = os.getppid()  # on import: an orphan has another parent


class _Process(NamedTuple):
    rank: int
    host: str
    pid: int
    started: float


class Peers:
    """Watches torchrun, the other processes of this run on this machine, and its other machines, in a thread.

    With one process and no launcher there is nothing to watch.

    Raises:
        UserError: the launcher is gone already.
    """

    def __init__(self) -> None:
        self._over = threading.Event()
        self._launcher = _process(LAUNCHER) if "TORCHELASTIC_RUN_ID" in os.environ else None
        self._others: dict[int, psutil.Process] = {}
        self._heartbeats: Heartbeats | None = None
        self._wait_for_everyone: Callable[[], None] = lambda: None
        if self._launcher is not None:
            _check_store()
            threading.Thread(target=self._watch, name="watch-peers", daemon=True).start()

    def meet(self, accelerator: Accelerator) -> None:
        """Watch the other processes too. All of them must call it."""
        self._wait_for_everyone = accelerator.wait_for_everyone
        if accelerator.num_processes == 1:
            return
        me = _Process(accelerator.process_index, _host(), os.getpid(), psutil.Process().create_time())
        others, everyone = {}, gather_object([me])
        for other in everyone:
            found = _process(other.pid) if other.host == me.host and other.pid != me.pid else None
            if found is not None and abs(found.create_time() - other.started) < 1:
                others[other.rank] = found
        self._others = others
        hosts = {one.host: one.rank for one in reversed(everyone)}  # the first process of each
        if hosts[me.host] == me.rank and len(hosts) > 1:
            self._heartbeats = connect(me.rank, [rank for rank in hosts.values() if rank != me.rank])
        if self._launcher is None:
            threading.Thread(target=self._watch, name="watch-peers", daemon=True).start()

    def close(self) -> None:
        """Stop watching."""
        self._over.set()

    def part(self) -> None:
        """Stop watching, all together: from here on each process may end. All of them must call it."""
        self._wait_for_everyone()  # watched too; who passes it first has TO_END to be missed by nobody
        self.close()

    def _watch(self) -> None:
        while not self._over.wait(BETWEEN_LOOKS):
            if self._launcher is not None and _is_gone(self._launcher):
                os.kill(os.getpid(), signal.SIGTERM)  # stops a run that is training, and saves it
                self._end(TO_SAVE, "the launcher of this run is gone")
            for rank, other in self._others.items():
                if _is_gone(other):
                    self._end(TO_END, f"process {rank} of this run has ended; its error is above")
            if self._heartbeats is not None and (lost := self._heartbeats.lost()) is not None:
                self._end(TO_END, lost)

    def _end(self, seconds: float, why: str) -> None:
        """End this process, unless the main thread does that first."""
        if not self._over.wait(seconds):
            logger.error("error: %s; this process ends too", why)
            os._exit(1)


def _check_store() -> None:
    """torch would wait for minutes for the store of a launcher that is gone."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        try:
            socket.create_connection((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])), TO_SAVE).close()
        except OSError as error:
            raise UserError(f"the launcher of this run cannot be reached: {error}") from None


def _host() -> str:
    """The machine, and the container: where a process number means the same process."""
    with suppress(OSError):
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def _process(pid: int) -> psutil.Process | None:
    with suppress(psutil.Error):
        return psutil.Process(pid)
    return None


def _is_gone(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    return True

"""Experiment trackers beside TensorBoard: Weights & Biases, MLflow, Aim and others, through accelerate's classes.

Each has a thread of its own, so a tracker that fails, waits for a network or asks for a password costs the training
nothing. RUN/trackers.json holds the ids of the trackers' runs, and a resumed run continues them.
"""

import json
import logging
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from PIL import Image

from fcmae.cli.command import leave_soon
from fcmae.errors import brief
from fcmae.files import write_text
from fcmae.runs.layout import flat
from fcmae.training import tracker_kinds
from fcmae.training.tracker_kinds import Known, Names

logger = logging.getLogger("fcmae")

TRACKERS = "trackers.json"
TO_SEND, TO_SEND_STOPPED, TO_SEND_FAILED = 30.0, 10.0, 2.0  # seconds at the end: complete, after a signal, an error
SECRET = re.compile(r"(\w://)(?:[^/@\s]*@)?([^?\s]*)(?:\?\S*)?")  # user:password@, and what follows a ?
WAITING = 10_000  # values that may wait for a tracker


class Trackers:
    """The trackers of a run, in its main process.

    Args:
        kinds: names of accelerate's trackers; ``tensorboard`` is passed over, as every run writes it.
        project: what the trackers file the run under.
        folder: the run folder, whose name is the run's.
        settings: the run's, nested.
    """

    def __init__(self, kinds: Sequence[str], project: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self._names, self._lock = Names(project, folder.resolve().name, folder.resolve()), threading.Lock()
        self._settings = {name: _scalar(value) for name, value in flat(dict(settings)).items()}
        self._senders = [_Sender(kind, self._started) for kind in dict.fromkeys(kinds) if kind != "tensorboard"]
        self.patience = TO_SEND

    def start(self) -> None:
        """Start the threads. Values that come before wait."""
        for sender in self._senders:
            known = self._recorded().get(sender.kind)
            sender.start(self._names, known, self._settings)

    def hurry(self) -> None:
        """The run was asked to stop: wait less at the end."""
        self.patience = TO_SEND_STOPPED

    def write(self, values: Mapping[str, Any], group: str) -> None:
        """Send values, of which ``step`` is one, as ``group/name``."""
        step = values["step"]
        numbers = {f"{group}/{name}": value for name, value in values.items() if name != "step"}
        for sender in self._senders:
            sender.put(lambda tracker: tracker.log(numbers, step=step))

    def add_picture(self, name: str, picture: Image.Image, step: int) -> None:
        """Send an RGB picture to the trackers that take pictures."""
        for sender in self._senders:
            kind = tracker_kinds.KINDS.get(sender.kind, tracker_kinds.PLAIN)
            if kind.add_picture is not None:
                sender.put(partial(_add_picture, kind.add_picture, name, picture, step))

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        patience = self.patience if error is None else TO_SEND_FAILED
        with suppress(KeyboardInterrupt):  # all else is saved
            for sender in self._senders:
                sender.finish()
            until = time.monotonic() + patience  # of all together
            for sender in self._senders:
                sender.wait(max(0.0, until - time.monotonic()))
        for sender in self._senders:
            sender.leave()

    def _recorded(self) -> dict[str, Known]:
        with suppress(OSError, ValueError, RecursionError, TypeError, AttributeError):
            recorded = json.loads((self._names.folder / TRACKERS).read_text(encoding="utf-8"))
            return {kind: Known(**known) for kind, known in recorded.items()}
        return {}

    def _started(self, kind: str, tracker: Any) -> None:
        """Record a tracker's run, and say where it is."""
        how = tracker_kinds.KINDS.get(kind, tracker_kinds.PLAIN)
        known = how.known(tracker.tracker)
        if known is not None:
            with self._lock:
                found = {name: one._asdict() for name, one in self._recorded().items()} | {kind: known._asdict()}
                write_text(self._names.folder / TRACKERS, json.dumps(found, indent=1) + "\n")
        where = how.where(tracker.tracker)
        logger.info(
            "%s: project %s, run %s%s", kind, self._names.project, self._names.run, f", {where}" if where else ""
        )


class _Sender:
    """One tracker and its thread."""

    def __init__(self, kind: str, started: Callable[[str, Any], None]) -> None:
        self.kind, self._started = kind, started
        self._waiting: queue.Queue[Callable[[Any], None] | None] = queue.Queue()
        self._over, self._lost = threading.Event(), 0
        self._thread: threading.Thread | None = None

    def start(self, names: Names, known: Known | None, settings: dict[str, Any]) -> None:
        self._thread = threading.Thread(
            target=self._run, args=(names, known, settings), name=f"tracker-{self.kind}", daemon=True
        )
        self._thread.start()

    def put(self, send: Callable[[Any], None]) -> None:
        if self._over.is_set():
            return
        if self._waiting.qsize() >= WAITING:
            self._give_up("it does not keep up")
        self._waiting.put(send)

    def finish(self) -> None:
        self._waiting.put(None)

    def wait(self, seconds: float) -> None:
        if self._thread is None or self._over.is_set():
            return
        self._thread.join(min(seconds, 1.0))
        if self._thread.is_alive() and seconds > 1.0:
            logger.info("waiting up to %.0f s for %s to send the rest; Ctrl-C skips it", seconds, self.kind)
            self._thread.join(seconds - 1.0)

    def leave(self) -> None:
        """From here on nothing is sent or said."""
        if self._thread is None or not self._thread.is_alive():
            return
        if not self._over.is_set():
            logger.warning("%s: not everything could be sent in time; metrics.jsonl has it all", self.kind)
        self._over.set()
        leave_soon()

    def _run(self, names: Names, known: Known | None, settings: dict[str, Any]) -> None:
        try:
            tracker = tracker_kinds.start(self.kind, names, known, settings)
            self._started(self.kind, tracker)
        except (Exception, SystemExit) as error:
            self._give_up(_reason(error))
            return
        while not self._over.is_set() and (send := self._waiting.get()) is not None:
            self._try(partial(send, tracker))
        if not self._over.is_set():
            self._try(tracker.finish)
            if self._lost > 1:
                logger.warning("%s: %d values did not arrive; metrics.jsonl has them", self.kind, self._lost)

    def _try(self, send: Callable[[], None]) -> None:
        try:
            send()
        except (Exception, SystemExit) as error:
            self._lost += 1
            if self._lost == 1 and not self._over.is_set():
                logger.warning("%s: %s; training goes on, metrics.jsonl has the values", self.kind, _reason(error))

    def _give_up(self, reason: str) -> None:
        if not self._over.is_set():
            logger.warning("%s: %s; training goes on without it", self.kind, reason)
            self._over.set()  # last: who waits for the thread no longer does


def _reason(error: BaseException) -> str:
    """One line."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return f"{package} is not installed; pip install {package.replace('_', '-')}"
    return brief(error) or type(error).__name__


def _scalar(value: Any) -> Any:
    """Trackers take text, numbers and truth values. Passwords and signatures in URLs are nothing for them."""
    if isinstance(value, int | float | None):
        return value
    parts = [value] if isinstance(value, str) else value
    return ", ".join(SECRET.sub(r"\1\2", part) if isinstance(part, str) else str(part) for part in parts)


def _add_picture(
    add: Callable[[Any, str, Image.Image, int], None], name: str, picture: Image.Image, step: int, tracker: Any
) -> None:
    add(tracker, name, picture, step)

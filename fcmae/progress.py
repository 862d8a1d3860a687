"""Progress of long work: a bar with the time left on a terminal, and a log line now and then everywhere else."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

logger = logging.getLogger("fcmae")

T = TypeVar("T")
FIRST_LINE, NEXT_LINES = 10.0, 30.0  # seconds: short work says nothing in a log
BAR = "{desc} {percentage:3.0f}%|{bar}| [{elapsed}, {remaining} left{postfix}]"


class Progress:
    """Counts units of work that are done, and shows them.

    Args:
        what: what is being done, such as ``reading images``.
        total: units in all.
        done: units that were done before.
        shown: whether to show anything; only the main process does.
    """

    def __init__(self, what: str, total: int, done: int = 0, shown: bool = True) -> None:
        self.what, self.total, self.done = what, total, done
        self._started, self._first, self._any = time.monotonic(), done, False
        self._next_line = self._started + FIRST_LINE if shown else float("inf")
        self._bar = tqdm(
            total=total, initial=done, desc=self.label(), bar_format=BAR, dynamic_ncols=True, leave=False,
            disable=None if shown else True,  # None: tqdm looks whether it is a terminal
        )  # fmt: skip
        self._stack = contextlib.ExitStack()

    def label(self) -> str:
        """What is being done, and how far it is."""
        return f"{self.what}: {self.done:,} of {self.total:,}"

    def details(self) -> str:
        """Shown after the time left; may be empty."""
        return ""

    def update(self, count: int = 1) -> None:
        """``count`` more units are done."""
        if not self._any:  # the first one also starts processes and compiles: it says little of the others
            self._started, self._first, self._any = time.monotonic(), self.done + count, True
        self.done += count
        if not self._bar.disable:
            self._bar.set_description_str(self.label(), refresh=False)
            self._bar.set_postfix_str(self.details(), refresh=False)
            self._bar.update(count)
        elif time.monotonic() >= self._next_line and self.done < self.total:
            self._next_line = time.monotonic() + NEXT_LINES
            left = self.seconds_left()
            parts = [self.label(), self.details(), "" if left is None else f"{duration(left)} left"]
            logger.info("%s", ", ".join(filter(None, parts)))

    def seconds_left(self, units: int | None = None) -> float | None:
        """Seconds for so many units at the speed so far, by default for all that are left; None: not known yet."""
        done = self.done - self._first
        if done < 1:
            return None
        return (self.total - self.done if units is None else units) * (time.monotonic() - self._started) / done

    def __enter__(self) -> "Progress":
        if not self._bar.disable:  # messages go above the bar
            self._stack.enter_context(logging_redirect_tqdm())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        self._stack.close()


def tracked(items: Iterable[T], total: int, what: str, count: Callable[[T], int] = lambda _: 1) -> Iterator[T]:
    """The items, with their progress shown; ``count`` says how many of the ``total`` units an item is."""
    with Progress(what, total) as progress:
        for item in items:
            yield item
            progress.update(count(item))


def duration(seconds: float) -> str:
    """In words that are short: ``40 s``, ``12 min``, ``2 h 05 min``, ``3 d 4 h``."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"

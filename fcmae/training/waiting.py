"""How long training waits for data, and what to do about it."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

TOO_LONG = 0.1  # of the time
JUDGED = 10.0  # seconds: steps of a GPU are short, and one that stumbles says nothing


class LoadingSettings(Protocol):
    """The settings that decide how fast data comes."""

    @property
    def num_workers(self) -> int:
        """Data loading processes of a training process."""

    @property
    def cache(self) -> bool:
        """Whether decoded images stay in memory."""


class DataWait:
    """Adds up how long a device had nothing to do because a batch had not come.

    A GPU is behind the process that launches its work, which may wait for a batch at no loss. So the time is taken on
    the GPU: from the end of what was launched before the batch came, to the next thing that it does.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Around the call that waits."""
        if self.device.type != "cuda":
            start = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - start
            return
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        stream = torch.cuda.current_stream(self.device)
        before.record(stream)
        yield
        after.record(stream)
        self._events.append((before, after))

    def take(self) -> float:
        """Seconds since the last call. Waits for the device."""
        if self._events:
            self._events[-1][1].synchronize()
        seconds = self._seconds + sum(before.elapsed_time(after) for before, after in self._events) / 1e3
        self._seconds, self._events = 0.0, []
        return seconds


class SlowData:
    """Notices, once, that data is slow. The first window counts nothing: processes start and fill their queues."""

    def __init__(self) -> None:
        self._waited, self._elapsed = 0.0, 0.0
        self._is_first, self._is_noticed = True, False

    def share(self, waited: float, elapsed: float) -> float | None:
        """The share of the time that was lost, if it is too long for the first time. To be called for each window."""
        if self._is_first:
            self._is_first = False
            return None
        self._waited, self._elapsed = self._waited + waited, self._elapsed + elapsed
        if self._elapsed < JUDGED:
            return None
        share = self._waited / self._elapsed
        self._waited, self._elapsed = 0.0, 0.0
        if share <= TOO_LONG or self._is_noticed:
            return None
        self._is_noticed = True
        return share


def advice(share: float, data: LoadingSettings, cores: int) -> str:
    """One line that says how much of the time is lost, and what may help; ``cores`` are those of a training process."""
    new_run = ["--data.cache true (if the decoded images fit in memory)"] * (not data.cache)
    if getattr(data, "crops_per_image", None) == 1:  # an option of pretraining
        new_run.insert(0, "--data.crops_per_image 4")
    more = f"--data.num_workers {cores} (now {data.num_workers})" if cores > data.num_workers else ""
    others = f"in a new run {' or '.join(new_run)}" if new_run else ""
    remedies = ", ".join(filter(None, (more, others, "smaller image files")))
    return f"training waits for data {share:.0%} of the time; what may help: {remedies}"


def cores_of_a_process() -> int:
    """Processor cores for each training process on this machine, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))

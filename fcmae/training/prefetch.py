"""Micro-batches on the device, copied while it computes."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch

from fcmae.training.run import Inputs
from fcmae.training.waiting import DataWait

AHEAD = 2
"""Micro-batches whose work a GPU may still have before it. A graph is launched in no time: without a limit, this
process would load many batches, which all take memory, before the first of them is used."""


class Prefetch:
    """The inputs of micro-batches, on the device.

    On CUDA they are copied on a stream of their own, which runs beside the work that was launched before. The current
    stream waits for the copy; this process does not, but for the limit of ``AHEAD``. The memory of a batch is kept
    until the work that reads it is done. On other devices it copies and no more.

    Args:
        batches: micro-batches as the loader yields them, in pinned memory for CUDA.
        inputs_of: their tensors, on the CPU.
        device: where the model is.
    """

    def __init__(self, batches: Iterator[Any], inputs_of: Callable[[Any], Inputs], device: torch.device) -> None:
        self.batches, self.inputs_of, self.device = batches, inputs_of, device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.wait = DataWait(device)
        self._current: Inputs = ()
        self._in_use: deque[tuple[Inputs, torch.cuda.Event]] = deque()

    def __iter__(self) -> "Prefetch":
        return self

    def __next__(self) -> Inputs:
        self._limit()
        with self.wait.measured():
            batch = next(self.batches)
        inputs = self.inputs_of(batch)
        if self.stream is None:
            return self._copied(inputs)
        with torch.cuda.stream(self.stream):
            self._current = self._copied(inputs)
        torch.cuda.current_stream(self.device).wait_stream(self.stream)
        return self._current

    def _copied(self, inputs: Inputs) -> Inputs:
        return tuple(x if x is None else x.to(self.device, non_blocking=True) for x in inputs)

    def _limit(self) -> None:
        """Note that what was launched since the last call reads the last batch; wait for one that is long past."""
        if self.stream is None:
            return
        self._in_use.append((self._current, torch.cuda.current_stream(self.device).record_event()))
        self._current = ()
        while len(self._in_use) > AHEAD:
            self._in_use.popleft()[1].synchronize()

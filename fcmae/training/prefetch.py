"""Micro-batches on the device."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from fcmae.training.run import Inputs


class Prefetch:
    """The inputs of micro-batches, on the device.

    Args:
        batches: micro-batches as the loader yields them.
        inputs_of: their tensors, on the CPU.
        device: where the model is.
    """

    def __init__(self, batches: Iterator[Any], inputs_of: Callable[[Any], Inputs], device: torch.device) -> None:
        self.batches, self.inputs_of, self.device = batches, inputs_of, device

    def __iter__(self) -> "Prefetch":
        return self

    def __next__(self) -> Inputs:
        batch = next(self.batches)  # waits for data
        return tuple(x if x is None else x.to(self.device, non_blocking=True) for x in self.inputs_of(batch))

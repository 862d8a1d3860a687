"""The learning rates of an optimizer as tensors on the device, where captured kernels read them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Rates:
    """The schedule goes on setting numbers in ``optimizer.param_groups``; logs and checkpoints read them there."""

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self.optimizer, self.is_cuda = optimizer, device.type == "cuda"
        # the fused kernels of CUDA read float32; a CPU computes with the very number
        dtype = torch.float32 if self.is_cuda else torch.float64
        self.tensors = torch.zeros(len(optimizer.param_groups), dtype=dtype, device=device)

    def update(self) -> None:
        """Copy the numbers, at the start of a step."""
        numbers = torch.tensor([group["lr"] for group in self.optimizer.param_groups], dtype=self.tensors.dtype)
        # torch keeps pinned memory until it has been copied, so that this need not wait for the device
        self.tensors.copy_(numbers.pin_memory() if self.is_cuda else numbers, non_blocking=True)

    @contextmanager
    def in_groups(self) -> Iterator[None]:
        """While open, the optimizer takes its learning rates from the tensors."""
        groups = self.optimizer.param_groups
        numbers = [group["lr"] for group in groups]
        for group, tensor in zip(groups, self.tensors.unbind(), strict=True):
            group["lr"] = tensor
        try:
            yield
        finally:
            for group, number in zip(groups, numbers, strict=True):
                group["lr"] = number

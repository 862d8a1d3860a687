"""The gradients of a step in one tensor: micro-batches add theirs, processes exchange them at once."""

from collections.abc import Sequence

import torch
from torch.nn import Parameter


class FlatGradients:
    """Gradients of parameters of one type on one device."""

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self.parameters = parameters
        first = parameters[0]
        self.flat = torch.zeros(sum(p.numel() for p in parameters), dtype=first.dtype, device=first.device)
        pieces = self.flat.split([p.numel() for p in parameters])
        # laid out as the parameters, which may be channels-last: fused optimizers go through both as they lie in memory
        self.views = [
            piece.as_strided(p.shape, p.stride(), piece.storage_offset())
            for piece, p in zip(pieces, parameters, strict=True)
        ]

    def take(self) -> None:
        """Add the parameters' gradients, and leave them without."""
        found = [(view, p.grad) for view, p in zip(self.views, self.parameters, strict=True) if p.grad is not None]
        torch._foreach_add_([view for view, _ in found], [grad for _, grad in found])
        for parameter in self.parameters:
            parameter.grad = None

    def give(self) -> None:
        """Let the sums be the parameters' gradients."""
        for view, parameter in zip(self.views, self.parameters, strict=True):
            parameter.grad = view

    def average(self, num_processes: int) -> None:
        """Over all processes, each of which must call it."""
        if num_processes > 1:
            self.flat.div_(num_processes)
            torch.distributed.all_reduce(self.flat)

    def broadcast_parameters(self) -> None:
        """Give all processes the parameters of the first; in between they lie here."""
        with torch.no_grad():
            torch._foreach_copy_(self.views, [p.detach() for p in self.parameters])
            torch.distributed.broadcast(self.flat, 0)
            torch._foreach_copy_([p.detach() for p in self.parameters], self.views)
            self.flat.zero_()

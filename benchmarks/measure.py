"""What a run costs besides time: peak memory, and its matrix products alone."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


def peak_memory(run: Callable[[], object], device: torch.device) -> int:
    """Bytes that a run allocates at its peak, on top of what was allocated before."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@dataclass
class MatrixProducts(TorchDispatchMode):
    """Records the matrix products that run inside ``with``, to run them again alone.

    Their time is a lower bound of the whole.
    """

    calls: list[tuple[Any, list[Any]]] = field(default_factory=list)
    flops: int = 0
    _tensors: dict[tuple, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Record a product and run it."""
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.removesuffix("_")
        if name in ("mm", "addmm", "bmm", "baddbmm"):
            a, b = args[-2:] if name in ("mm", "bmm") else args[1:3]
            self.flops += 2 * a.numel() * b.shape[-1]
            self.calls.append((torch.bmm if a.ndim == 3 else torch.mm, [self._like(a), self._like(b)]))
        return out

    def _like(self, tensor: Tensor) -> Tensor:
        """One random tensor per shape, layout and dtype."""
        key = (tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if key not in self._tensors:
            size = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
            flat = torch.randn(size, device=tensor.device).to(tensor.dtype)
            self._tensors[key] = flat.as_strided(tensor.shape, tensor.stride())
        return self._tensors[key]

    def run(self) -> None:
        """Run all products again."""
        for function, operands in self.calls:
            function(*operands)


PEAK_SIZE = 2048


def matmul_peak(dtype: torch.dtype, device: torch.device, size: int = PEAK_SIZE) -> Callable[[], object]:
    """A large square product, 2 · size³ FLOP; its speed is taken as the machine's peak."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return lambda: a @ b

"""Networks without values: the shapes of a large one in a twentieth of a second, where its first weights take many.

accelerate's ``init_empty_weights`` runs the initialization on the meta device, in half a second.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class _NothingInPlace(TorchFunctionMode):
    """Skips what changes a tensor on the meta device in place: it has no values, and only Python's time would pass.

    ``torch.linspace`` has them: timm before 1.0.21 reads the rates of drop path from it.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.linspace:
            kwargs.setdefault("device", "cpu")
        name = getattr(func, "__name__", "")
        if name.endswith("_") and not name.endswith("__") and name != "requires_grad_":
            tensor = args[0] if args else kwargs.get("tensor")  # as torch.nn.init calls it
            if isinstance(tensor, Tensor) and tensor.is_meta:
                return tensor
        return func(*args, **kwargs)


@contextmanager
def outlined() -> Iterator[None]:
    """Modules that are made here are on the meta device; their weights are not initialized, and no random number is
    drawn. ``module.to_empty(device=…)`` makes room for values."""
    with torch.device("meta"), _NothingInPlace():
        yield

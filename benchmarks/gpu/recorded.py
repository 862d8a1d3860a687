"""Which Triton kernels a step launches, at which shapes, with which arguments."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fcmae.sparse.backends.triton.launch import Launch


@dataclass
class Recorded:
    """One kernel at one shape, as often as a step launches it."""

    launch: Launch
    args: tuple[Any, ...]
    count: int = 0

    @property
    def least(self) -> int:
        """Bytes, with every tensor read or written once."""
        return sum(arg.nbytes for arg in self.args if isinstance(arg, Tensor))

    @property
    def name(self) -> str:
        """What the kernel is called, the gradient to the input apart."""
        flipped = " (input gradient)" if self.launch.constants.get("FLIP") else ""
        return self.launch.kernel.__name__.removesuffix("_kernel").replace("_", " ") + flipped

    @property
    def shape(self) -> tuple[str, str]:
        """Sites along a patch, or rows; channels."""
        constants = self.launch.constants
        wide = max((arg for arg in self.args if isinstance(arg, Tensor)), key=lambda arg: arg.nbytes)
        side = f"s = {constants['S']}" if "S" in constants else f"{len(wide)} rows"
        return side, str(next((constants[name] for name in ("CHANNELS", "HIDDEN", "C") if name in constants), "–"))


@dataclass
class Recorder:
    """Keeps what is launched inside ``with``, one entry for each kernel and shape."""

    found: dict[tuple, Recorded] = field(default_factory=dict)

    def __enter__(self) -> "Recorder":
        self._call: Any = Launch.__call__

        def record(launch: Launch, *args: Any) -> None:
            shapes = tuple(arg.shape if isinstance(arg, Tensor) else arg for arg in args)
            key = (launch.kernel.__name__, launch.grid, tuple(sorted(launch.constants.items())), shapes)
            self.found.setdefault(key, Recorded(launch, args)).count += 1
            self._call(launch, *args)

        Launch.__call__ = record  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        Launch.__call__ = self._call  # type: ignore[method-assign]

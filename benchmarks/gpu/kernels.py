"""Every Triton kernel of a training step alone, at its shapes: time, and share of the least time its bytes need.

python -m benchmarks.gpu.kernels --batch-size 128

The launches of one step are recorded with their arguments, and each is then run many times in one CUDA graph. What must
be moved is each argument once; the rate is that of a copy in the same run. Tensors that fit the cache can beat it.
"""

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu import common
from benchmarks.measure import MatrixProducts
from fcmae.models import FCMAE
from fcmae.sparse.backends.triton.launch import Launch

REPEATS = 20  # launches of a kernel in a graph
SECONDS = 0.2  # for each kernel


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
        return side, str(constants.get("CHANNELS", constants.get("HIDDEN", "–")))


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


def seconds_each(run: Callable[[], object], device: torch.device, small: bool) -> float:
    """Of one run, without the time to launch it."""
    if device.type != "cuda":
        return statistics.median(common.seconds_of(run, device, rounds=1 if small else 3, most=SECONDS))

    def many() -> Tensor:
        for _ in range(REPEATS):
            run()
        return torch.empty(0)

    return statistics.median(common.seconds_of(common.captured(many), device, most=SECONDS)) / REPEATS


def step_of(model: FCMAE, inputs: common.Inputs, device: torch.device) -> None:
    """Forward and backward, eagerly."""
    common.forward_backward(common.loss_of(model, inputs), torch.bfloat16, device)
    model.zero_grad()


def main() -> int:
    """Command line."""
    parser = common.options(__doc__)
    parser.add_argument("--batch-size", type=int, default=128)
    args = common.parse(parser)
    device, batch = args.device, 2 if args.small else args.batch_size
    rates = common.measured_rates(device, args.small)
    model = common.make_model(args.model, args.img_size, "triton", device)
    inputs = common.make_inputs(model, batch, args.img_size, device)
    step_of(model, inputs, device)
    with Recorder() as recorder:
        step_of(model, inputs, device)
    with MatrixProducts() as products:
        step_of(model, inputs, device)
    print(f"{args.model}, batch {batch}, {args.img_size}², bf16; this machine: {rates}.")
    common.print_header(
        "kernel", "at", "channels", "launches", "µs each", "ms a step", "MiB least", "µs for its bytes", "share"
    )
    total, floor = 0.0, 0.0
    for found in recorder.found.values():
        each = seconds_each(lambda f=found: f.launch(*f.args), device, args.small)
        least = found.least / rates.bytes_per_second
        total, floor = total + each * found.count, floor + least * found.count
        common.print_row(
            found.name, *found.shape, found.count, f"{1e6 * each:.1f}", f"{1e3 * each * found.count:.3f}",
            f"{found.least / 2**20:.1f}", f"{1e6 * least:.1f}", f"{least / each:.0%}",
        )  # fmt: skip
    step = common.training_step(model, common.loss_of(model, inputs), torch.bfloat16, device)
    step()
    run = common.captured(step) if device.type == "cuda" else step
    whole = statistics.median(common.seconds_of(run, device, rounds=2 if args.small else 12))
    alone = seconds_each(products.run, device, args.small)
    bound = products.flops / rates.flops
    common.print_header("of a step", "ms", "least, ms", "share")
    for name, seconds, least in [("Triton kernels", total, floor), ("matrix products", alone, bound)]:
        common.print_row(name, f"{1e3 * seconds:.2f}", f"{1e3 * least:.2f}", f"{least / seconds:.0%}")
    common.print_row("all else", f"{1e3 * (whole - total - alone):.2f}", "–", "–")
    common.print_row(
        "the step, one graph", f"{1e3 * whole:.2f}", f"{1e3 * (floor + bound):.2f}", f"{(floor + bound) / whole:.0%}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

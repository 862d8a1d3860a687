"""Every Triton kernel of a training step alone, at its shapes: time, and share of the least time its bytes need.

python -m benchmarks.gpu.kernels --batch-size 128

The launches of one step are recorded with their arguments, and each is then run many times in one CUDA graph. What must
be moved is each argument once; the rate is that of a copy in the same run. Tensors that fit the cache can beat it.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu import common
from benchmarks.gpu.recorded import Recorded, Recorder
from benchmarks.measure import MatrixProducts
from fcmae.models import FCMAE

REPEATS = 20  # launches of a kernel in a graph
SECONDS = 0.2  # for each kernel


def seconds_each(run: Callable[[], object], device: torch.device) -> float:
    """Of one run, without the time to launch it."""
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    def many() -> Tensor:
        for _ in range(REPEATS):
            run()
        return torch.empty(0)

    return statistics.median(common.seconds_of(common.captured(many, device), device, most=SECONDS)) / REPEATS


def step_of(model: FCMAE, inputs: common.Inputs, device: torch.device) -> None:
    """Forward and backward, eagerly."""
    common.forward_backward(common.loss_of(model, inputs), torch.bfloat16, device)
    model.zero_grad()


NAMES = {
    "slide": "forward", "near": "forward", "wgrad": "wgrad", "forward": "LayerNorm", "backward": "LayerNorm backward",
    "gelu": "GELU", "scale": "GRN statistics", "through": "GRN statistics backward", "gelu grad": "GELU backward",
    "grn": "GRN", "grn sums": "GRN sums backward", "stem rows": "stem rows", "patch pixels": "target pixels",
    "weights grad": "GRN weights backward",
}  # fmt: skip
"""What kernel_cost calls the kernels."""
DECODER = 512  # its width
OF_IMAGES = ("GRN statistics", "GRN statistics backward", "GRN weights backward", "stem rows", "target pixels")
"""Kernels whose first argument has no row for each site."""
Key = tuple[str, str, int]
"""kernel_cost's name, channels, sites along a patch (0: of images)."""


def begin_predictions(args: Any, batch: int) -> subprocess.Popen | None:
    """benchmarks.kernel_cost for this GPU, in a process of its own: it forks, which a process with CUDA should not."""
    if args.device.type != "cuda":
        return None
    major, minor = torch.cuda.get_device_capability(args.device)
    command = [
        sys.executable, "-m", "benchmarks.kernel_cost", "--model", args.model, "--batch-size", str(batch), "--arch",
        str(10 * major + minor), "--mask-ratio", str(common.MASK_RATIO), "--img-size", str(args.img_size),
        "--decoder", str(DECODER), "--json",
    ]  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def read_predictions(process: subprocess.Popen | None) -> dict[Key, float]:
    """Microseconds of each kernel; none if it failed."""
    if process is None:
        return {}
    said, _ = process.communicate()
    costs = [json.loads(line) for line in said.splitlines()]
    return {
        (c["name"], str(c["channels"]), 0 if c["name"] in OF_IMAGES else c["side"]): max(c["issue_us"], c["bytes_us"])
        for c in costs
    }


def key_of(found: Recorded, visible_patches: int, patches: int) -> Key | None:
    """Which prediction is of a kernel; ``patches`` are those of the decoder. None: there is none, or two may be."""
    name, channels = NAMES.get(found.name.split(" (")[0], ""), found.shape[1]
    if name in OF_IMAGES:
        return None if channels == str(4 * DECODER) else (name, channels, 0)
    rows = len(found.args[0])
    if rows == patches:
        return f"decoder {name}", channels, 1
    side = {visible_patches * side * side: side for side in (8, 4, 2, 1)}.get(rows)
    return None if side is None else (name, channels, side)


def main() -> int:
    """Command line."""
    parser = common.options(__doc__)
    parser.add_argument("--batch-size", type=int, default=128)
    args = common.parse(parser)
    device, batch = args.device, 2 if args.small else args.batch_size
    predicting = begin_predictions(args, batch)
    rates = common.measured_rates(device, args.small)
    model = common.make_model(args, "triton")
    inputs = common.make_inputs(model, batch, device)
    begin = time.perf_counter()
    with Recorder() as recorder:
        step_of(model, inputs, device)
    whole = time.perf_counter() - begin  # on a CPU; a GPU is timed below
    with MatrixProducts() as products:  # operators of our own hide theirs; the plain backend has the same
        step_of(common.make_model(args, "torch", model), inputs, device)
    print(f"{args.model}, batch {batch}, {common.size(args)}, bf16; this machine: {rates}.")
    common.print_header(
        "kernel", "at", "channels", "launches", "µs each", "ms a step", "MiB least", "µs for its bytes", "share",
        "predicted µs",
    )  # fmt: skip
    predicted = read_predictions(predicting)
    total, floor = 0.0, 0.0
    for found in recorder.found.values():
        each = seconds_each(lambda f=found: f.launch(*f.args), device)
        least = found.least / rates.bytes_per_second
        key = key_of(found, inputs.kept * batch, inputs.visible.numel())
        total, floor = total + each * found.count, floor + least * found.count
        common.print_row(
            found.name, *found.shape, found.count, f"{1e6 * each:.1f}", f"{1e3 * each * found.count:.3f}",
            f"{found.least / 2**20:.1f}", f"{1e6 * least:.1f}", f"{least / each:.0%}",
            f"{predicted[key]:.1f}" if key is not None and key in predicted else "–",
        )  # fmt: skip
    if device.type == "cuda":
        step = common.training_step(model, common.loss_of(model, inputs), torch.bfloat16, device)
        whole = statistics.median(common.seconds_of(common.captured(step, device), device))
    alone = seconds_each(products.run, device)
    bound = products.flops / rates.flops
    common.print_header("of a step", "ms", "least, ms", "share")
    for name, seconds, least in [("Triton kernels", total, floor), ("matrix products", alone, bound)]:
        common.print_row(name, f"{1e3 * seconds:.2f}", f"{1e3 * least:.2f}", f"{least / seconds:.0%}")
    common.print_row("all else", f"{1e3 * (whole - total - alone):.2f}", "–", "–")
    share = f"{(floor + bound) / whole:.0%}"
    common.print_row("the step, one graph", f"{1e3 * whole:.2f}", f"{1e3 * (floor + bound):.2f}", share)
    return 0


if __name__ == "__main__":
    sys.exit(main())

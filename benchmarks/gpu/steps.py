"""A whole training step (forward, backward, AdamW), in bfloat16 on a GPU, by network, backend and mode.

    python -m benchmarks.gpu.steps --model convnextv2_tiny --rows triton/graph masked/compiled+graph

A row is BACKEND/MODE; a mode is eager, graph (one CUDA graph), compiled (torch.compile of each block, or of the whole
network with --whole) or compiled+graph. ``mae`` as a backend is timm's ViT-B masked autoencoder. All rows have the same
batch: the largest at which the masked dense network, which needs most memory, fits. A row whose loss is wrong is not
timed.
"""

import gc
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu import common
from benchmarks.mae import ViTMAE
from benchmarks.measure import peak_memory
from fcmae.models import FCMAE, masked
from fcmae.models.block import Block
from fcmae.sparse.backends.registry import BackendError

ROWS = ("triton/graph", "masked/compiled+graph", "torch/compiled+graph")
PEER, SMALL_PEER = "vit_base_patch16_224", "vit_tiny_patch16_224"
SHARE = 0.8  # of the free memory; a graph's pool and the compiler need some
LARGEST, STEP = 1024, 32  # images; beyond, a GPU is as busy as it gets
LOSS_ERROR = 1e-2  # relative, between the loss of a row and its eager one; in bfloat16 they differ by 1e-3


def largest_batch(model: FCMAE, device: torch.device) -> int:
    """Images that fit, from the memory that steps of 8 and 16 take."""
    used = []
    for batch in (8, 8, 16):  # the first allocates workspaces
        inputs = common.make_inputs(model, batch, device)
        step = common.training_step(model, common.loss_of(model, inputs), torch.bfloat16, device)
        used.append(peak_memory(step, device))
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    each = (used[2] - used[1]) / 8
    fits = int((SHARE * free - max(used[1] - 8 * each, 0)) / each)
    return max(min(fits, LARGEST) // STEP * STEP, 8)


def kernel_time(run: common.Run, device: torch.device) -> tuple[float, int] | None:
    """Seconds that the kernels of a run take together, and how many they are; None on a CPU."""
    if device.type != "cuda":
        return None
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        run()
        torch.cuda.synchronize()
    kernels = [
        event
        for event in profiled.events()
        if event.device_type == DeviceType.CUDA and not getattr(event, "is_user_annotation", False)
    ]
    return sum(event.time_range.elapsed_us() for event in kernels) / 1e6, len(kernels)


def compiler(device: torch.device) -> str:
    """A CPU's takes minutes; what the networks are to it can be tried without."""
    return "inductor" if device.type == "cuda" else "aot_eager"


def compile_blocks(network: nn.Module, device: torch.device) -> None:
    """torch.compile of every block: a few graphs for all of them, which takes seconds where the whole takes minutes."""
    torch._dynamo.config.recompile_limit = 64  # one graph for each shape, and for each state of the indices
    for module in network.modules():
        if isinstance(module, Block) or type(module).__name__ == "Block":  # ours, and timm's ViT's
            module.compile(backend=compiler(device))


@contextmanager
def masked_blocks_compiled(yes: bool, device: torch.device) -> Iterator[None]:
    """The masked baseline calls a function for each block, not the module."""
    before: Any = masked._block
    try:
        if yes:
            masked._block = torch.compile(before, backend=compiler(device))
        yield
    finally:
        masked._block = before


def dtype_on(device: torch.device) -> torch.dtype:
    """A CPU emulates bfloat16, slowly."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def peer(args: Any) -> str:
    """The ViT of the masked autoencoder."""
    return SMALL_PEER if args.small else PEER


def make_network(args: Any, backend: str, batch: int, like: FCMAE, inputs: common.Inputs) -> tuple[Any, common.Run]:
    """A network and its forward pass."""
    if backend != "mae":
        model = common.make_model(args, backend, like)
        return model, common.loss_of(model, inputs)
    small = {"dim": 64, "depth": 1} if args.small else {}
    mae = ViTMAE(peer(args), args.img_size, **small).to(args.device)
    order = torch.rand(batch, mae.encoder.patch_embed.num_patches, device=args.device).argsort(1)
    return mae, lambda: mae(inputs.images, order)


def measure_row(
    args: Any, backend: str, mode: str, like: FCMAE, inputs: common.Inputs
) -> tuple[list[str], float, int | None]:
    """The cells of a row after network, backend and mode; seconds of a step; most bytes allocated, on a GPU."""
    batch = len(inputs.images)
    network, forward = make_network(args, backend, batch, like, inputs)
    step = common.training_step(network, forward, dtype_on(args.device), args.device)
    begin = time.perf_counter()
    expected = float(step())
    with masked_blocks_compiled("compiled" in mode and not args.whole, args.device):
        if "compiled" in mode:
            if args.whole:
                network.compile(backend=compiler(args.device))
            else:
                compile_blocks(network, args.device)
        loss = float(step())
        peak = peak_memory(step, args.device) if args.device.type == "cuda" else None
        run = step
        if "graph" in mode and args.device.type == "cuda":
            run = common.captured(step, args.device)
            loss = float(run())
        start_up = time.perf_counter() - begin
        if not abs(loss - expected) <= LOSS_ERROR * abs(expected):
            raise ValueError(f"not timed: the loss is {loss:.4f}, eagerly {expected:.4f}")
        times = common.seconds_of(run, args.device, rounds=3 if args.small else 12)
        kernels = kernel_time(run, args.device)
    middle = statistics.median(times)
    cells = [
        f"{1e3 * middle:.1f} ({1e3 * min(times):.1f} … {1e3 * max(times):.1f})",
        f"{batch / middle:,.0f}",
        "–" if kernels is None else f"{1e3 * kernels[0]:.1f} ({kernels[0] / middle:.0%})",
        "–" if kernels is None else f"{kernels[1]}",
        "–" if peak is None else f"{peak / 2**20:,.0f}",
        f"{start_up:.0f}",
    ]
    return cells, middle, peak


def main() -> int:
    """Command line."""
    parser = common.options(__doc__)
    parser.add_argument("--rows", nargs="+", default=list(ROWS))
    parser.add_argument("--batch-size", type=int, help="unset: the largest that fits")
    parser.add_argument("--whole", action="store_true", help="compile the whole network, not block by block")
    args = common.parse(parser)
    like = common.make_model(args, "masked")
    batch = args.batch_size or (largest_batch(like, args.device) if args.device.type == "cuda" else 2)
    inputs = common.make_inputs(like, batch, args.device)
    how = "the whole network" if args.whole else "block by block"
    dtype = str(dtype_on(args.device)).removeprefix("torch.")
    print(f"{args.model}, batch {batch}, {common.size(args)}, {dtype}, forward + backward + AdamW; compiled: {how}.")
    common.print_header(
        "network", "backend", "mode", "ms (range)", "images/s", "kernels, ms (share)", "kernels", "peak MiB",
        "start-up, s",
    )  # fmt: skip
    seconds: dict[str, float] = {}
    peaks: dict[str, int] = {}
    failed = False
    for row in args.rows:
        backend, mode = row.split("/")
        name = args.model if backend != "mae" else f"{peer(args)}, MAE"
        if time.perf_counter() - args.started > args.limit:
            common.print_row(name, backend, mode, "left out: no time", *["–"] * 5)
            continue
        if backend == "triton" and args.device.type == "cpu":
            common.print_row(name, backend, mode, "left out: no GPU", *["–"] * 5)
            continue
        try:
            cells, seconds[row], peak = measure_row(args, backend, mode, like, inputs)
            peaks |= {} if peak is None else {row: peak}
            common.print_row(name, backend, mode, *cells)
        except BackendError as error:
            common.print_row(name, backend, mode, f"left out: {common.why(error)}", *["–"] * 5)
        except Exception as error:
            failed = True
            common.print_row(name, backend, mode, f"**failed**: {common.why(error)}", *["–"] * 5)
        torch.compiler.reset()
        gc.collect()
        if args.device.type == "cuda":
            torch.cuda.empty_cache()
    ours = next((row for row in args.rows if row in seconds), None)
    if ours is not None:
        ratios = [f"{seconds[row] / seconds[ours]:.2f}× {row}" for row in seconds if row != ours]
        if ratios:
            print(f"\n{ours} is as fast as {', '.join(ratios)}.")
        memory = [f"{peaks[ours] / peaks[row]:.2f}× {row}" for row in peaks if row != ours and ours in peaks]
        if memory:
            print(f"Its peak memory is {', '.join(memory)}.")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

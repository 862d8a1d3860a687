"""What the stages share: options, a training step, its capture in a CUDA graph, timing, the machine's own rates."""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.measure import matmul_peak
from benchmarks.weights import randomize_grn
from fcmae.models import FCMAE, ModelConfig
from fcmae.training.graphs import CudaCapture

Run = Callable[[], Tensor]
SMALL_MODEL, SMALL_IMAGE = "convnextv2_atto", (32, 64)
COPY_BYTES = 2**30
PRODUCT_SIZE = 8192
MASK_RATIO = 0.6


def options(description: str | None) -> argparse.ArgumentParser:
    """The command line of a stage."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="a small network on small images, to try the command")
    parser.add_argument("--model", default="convnextv2_tiny")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--limit", type=float, default=600, help="seconds after which no new row is begun")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options, with --small put in; everything that draws is seeded."""
    args = parser.parse_args()
    if args.small:
        args.model, args.img_size = SMALL_MODEL, SMALL_IMAGE
    args.device = torch.device(args.device)
    args.started = time.perf_counter()
    torch.manual_seed(0)
    return args


class Inputs(NamedTuple):
    """One batch; every network of a comparison sees the same."""

    images: Tensor
    visible: Tensor
    kept: int


def make_inputs(model: FCMAE, batch: int, device: torch.device) -> Inputs:
    """Random images and masks."""
    images = torch.randn(batch, 3, *model.config.image_hw, device=device)
    return Inputs(images, *model.random_visible(images))


def make_model(args: argparse.Namespace, backend: str, like: FCMAE | None = None) -> FCMAE:
    """A network with the weights of ``like``, or new ones with a GRN that is not the identity."""
    model = FCMAE(ModelConfig(args.model, img_size=args.img_size, backend=backend), MASK_RATIO)  # type: ignore[arg-type]
    if args.small:  # a block of each stage
        for stage in model.encoder.stages:
            stage.blocks = stage.blocks[:1]
    model.to(args.device)
    if like is None:
        randomize_grn(model)
    else:
        model.load_state_dict(like.state_dict())
    return model


def loss_of(model: FCMAE, inputs: Inputs) -> Run:
    """Its forward pass, as training calls it."""
    return lambda: model(inputs.images, visible=inputs.visible, num_visible=inputs.kept, masked_only=True).loss


def forward_backward(forward: Run, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The loss; gradients are left in the parameters. Autocast keeps no cast weights: a graph could not replay that."""
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16, cache_enabled=False):
        loss = forward()
    loss.backward()
    return loss.detach()


def training_step(network: nn.Module, forward: Run, dtype: torch.dtype, device: torch.device) -> Run:
    """Forward, backward, AdamW. At a learning rate of 0, so that every step gives the same loss."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.0, fused=True, capturable=device.type == "cuda")

    def run() -> Tensor:
        loss = forward_backward(forward, dtype, device)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return run


def captured(run: Run, device: torch.device) -> Run:
    """The same as one CUDA graph, captured as training captures its steps."""
    capture, loss = CudaCapture(device), torch.empty(0)

    def work() -> None:
        nonlocal loss
        loss = run()

    for _ in range(3):  # compiles kernels, allocates workspaces
        capture.warm_up(work)
    launch = capture(work)

    def replay() -> Tensor:
        launch()
        return loss

    return replay


def seconds_of(run: Callable[[], object], device: torch.device, rounds: int = 12, most: float = 3.0) -> list[float]:
    """Seconds of each run, after one that does not count: ``rounds`` of them, or those that ``most`` seconds hold."""
    times: list[float] = []
    run()
    wait(device)
    end = time.perf_counter() + most
    while len(times) < rounds and (len(times) < 3 or time.perf_counter() < end):
        if device.type == "cuda":
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            run()
            last.record()
            last.synchronize()
            times.append(first.elapsed_time(last) / 1e3)
        else:
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    return times


def wait(device: torch.device) -> None:
    """Until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Rates(NamedTuple):
    """What the machine does at its best, measured when asked."""

    bytes_per_second: float
    """Of a copy on the device, bytes read and bytes written both counted."""
    flops: float
    """Of a large square product in bfloat16."""

    def __str__(self) -> str:
        return f"copy {self.bytes_per_second / 1e12:.2f} TB/s, bf16 product {self.flops / 1e12:.0f} TFLOP/s"


def measured_rates(device: torch.device, small: bool) -> Rates:
    """Medians."""
    amount, size = (2**22, 256) if small else (COPY_BYTES, PRODUCT_SIZE)
    source = torch.zeros(amount, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = statistics.median(seconds_of(lambda: target.copy_(source), device))
    product = statistics.median(seconds_of(matmul_peak(torch.bfloat16, device, size), device))
    return Rates(2 * amount / copy, 2 * size**3 / product)


def print_row(*cells: Any) -> None:
    """One line of a table, at once: what is measured is kept if the stage is ended."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def print_header(*names: str) -> None:
    """The head of a table."""
    print()
    print_row(*names)
    print_row(*["---"] * len(names))


def why(error: BaseException) -> str:
    """An error in one short line."""
    lines = f"{type(error).__name__}: {error}".splitlines()
    return lines[0][:120].replace("|", "/")


def size(args: argparse.Namespace) -> str:
    """Of the images, in words."""
    return f"{args.img_size}²" if isinstance(args.img_size, int) else "×".join(map(str, args.img_size))

"""What limits many GPUs: a small model of a pretraining step, its data, its checkpoints and its failures.

    python -m benchmarks.cluster --gpus 8 64 1024 --bandwidth 50 --models convnextv2_tiny convnextv2_base
    python -m benchmarks.cluster --check        # its predictions against what can be run here, on CPUs

Prints Markdown; docs/scale.md explains it. Figures that were measured are in ``MEASURED`` with their source; all else
is an option or a formula.
"""

import argparse
import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from fcmae.models import FCMAE, ModelConfig

FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class Step:
    """Forward and backward of a batch on one GPU."""

    images: int
    seconds: float
    source: str


H100 = "measured on an H100, commit c2f8fbe, docs/benchmarks.md"
MEASURED = {
    "convnextv2_tiny": Step(128, 31.6e-3, H100),
    "convnextv2_base": Step(64, 63.2e-3, H100),
}
GMACS = {"convnextv2_tiny": 4.47, "convnextv2_base": 15.4, "convnextv2_large": 34.4, "convnextv2_huge": 115.0}
IMAGES_PER_CORE = {"500×375": 464, "1600×1200": 157}  # images/s, docs/benchmarks.md, input pipeline
KILOBYTES = {"500×375": 47, "1600×1200": 256}  # per JPEG, the same table
FOUR_CROPS = {"500×375": 1.70, "1600×1200": 2.01}  # --data.crops_per_image 4, the same section (2.01: of 4000×3000)
LEAST_STEP = 2e-3  # seconds, assumed: about 730 kernels of a captured step, 3 µs each
# 419 unexpected interruptions in 54 days of 16,384 GPUs: The Llama 3 Herd of Models, arXiv 2407.21783, section 3.3.4
HOURS_BETWEEN_FAILURES = 54 * 24 * 16_384 / 419  # of one GPU


@dataclass(frozen=True)
class Hardware:
    """The cluster. Bandwidths are those that a program gets, not those of the data sheet."""

    bandwidth: float = 50e9
    """Bytes/s that a GPU sends to another node (400 Gbit/s)."""
    inside: float = 300e9
    """Bytes/s that it sends to another GPU of its node (NVLink)."""
    per_node: int = 8
    latency: float = 10e-6
    """Seconds of each of the 2(n − 1) rounds of a ring."""
    disk: float = 1e9
    """Bytes/s at which one process writes a checkpoint."""
    storage: float = 5e9
    """Bytes/s that all nodes together read from shared storage."""
    cores: int = 12
    """Processor cores for each GPU."""
    sigma: float = 0.05
    """Standard deviation of the logarithm of a GPU's step time."""
    hours: float = HOURS_BETWEEN_FAILURES
    """Mean hours between failures of one GPU and what belongs to it."""
    startup: float = 180.0
    """Seconds from a failure to the first step: noticing, starting, importing, listing, compiling."""


@cache
def parameters(model: str) -> int:
    """Of encoder and decoder, as pretraining trains them."""
    with torch.device("meta"):
        return sum(p.numel() for p in FCMAE(ModelConfig(name=model)).parameters())


def step_of(model: str) -> Step:
    """Measured, or scaled from base by the products of the dense network."""
    if model in MEASURED:
        return MEASURED[model]
    base = MEASURED["convnextv2_base"]
    factor = GMACS[model] / GMACS["convnextv2_base"]
    return Step(base.images, base.seconds * factor, "base × products")


def ring_seconds(size: float, processes: int, bandwidth: float, latency: float) -> float:
    """Of a ring all-reduce: 2(n − 1) rounds, in each of which every process sends a part of ``size`` bytes / n."""
    rounds = 2 * (processes - 1)
    return rounds * (size / processes / bandwidth + latency)


def exchange_seconds(size: float, gpus: int, hardware: Hardware) -> float:
    """Of an all-reduce of ``size`` bytes: within the nodes, and between those of equal place in every node."""
    inside = min(gpus, hardware.per_node)
    nodes = math.ceil(gpus / hardware.per_node)
    between = ring_seconds(size / inside, nodes, hardware.bandwidth, hardware.latency)
    return ring_seconds(size, inside, hardware.inside, hardware.latency) + between


def sharded_seconds(size: float, gpus: int, hardware: Hardware) -> float:
    """Of a step of FSDP2: weights gathered forward and backward, gradients scattered; each half of an all-reduce.

    All in float32, as fcmae.training.sharding sets no other type.
    """
    return 1.5 * exchange_seconds(size, gpus, hardware)


def slowest(gpus: int, sigma: float, draws: int = 2000, seed: int = 0) -> float:
    """Mean of the largest of so many log-normal step times whose median is 1: every step waits for the slowest."""
    uniform = np.random.default_rng(seed).random(draws)
    # the largest of n is below x with probability F(x)ⁿ
    normal = torch.special.ndtri(torch.from_numpy(uniform ** (1 / gpus)))
    return float(torch.exp(sigma * normal).mean())


def checkpoint_bytes(model: str) -> int:
    """Weights and AdamW's two moments, float32."""
    return 3 * FLOAT32 * parameters(model)


def best_interval(write: float, between_failures: float) -> float:
    """Seconds between checkpoints that lose the least: Daly's higher-order estimate (2006, equation 37)."""
    if write >= 2 * between_failures:
        return between_failures
    share = math.sqrt(write / (2 * between_failures))
    return math.sqrt(2 * write * between_failures) * (1 + share / 3 + share**2 / 9) - write


def whole_time(
    steps: int, step: float, every: int, write: float, startup: float, between_failures: float, seed: int
) -> tuple[float, int, int]:
    """Simulate a run with failures at random: (seconds, steps done again, failures).

    A failure loses the steps since the last checkpoint; one while a checkpoint is written loses that, too. No start is
    counted at the beginning.
    """
    draw = np.random.default_rng(seed)
    clock = 0.0
    saved = done = again = failures = 0
    next_failure = draw.exponential(between_failures)
    while done < steps:
        takes = step + (write if (done + 1) % every == 0 or done + 1 == steps else 0.0)
        if clock + takes < next_failure:
            clock += takes
            done += 1
            saved = done if done % every == 0 or done == steps else saved
            continue
        failures += 1
        again += done - saved
        clock, done = next_failure + startup, saved
        next_failure = clock + draw.exponential(between_failures)
    return clock, again, failures


def waste(write: float, every: float, startup: float, between_failures: float) -> float:
    """Share of the time that checkpoints, repeated work and restarts take, to first order."""
    return write / every + (every / 2 + startup) / between_failures


def with_batch(step: Step, images: int) -> Step:
    """The step of another number of images on a GPU; it cannot take less than ``LEAST_STEP``."""
    return Step(images, max(step.seconds * images / step.images, LEAST_STEP), step.source)


def row_of(model: str, gpus: int, hardware: Hardware, overlap: float, batch: int | None = None) -> list[str]:
    """A row of the table of steps: of as many images per GPU as were measured, or of ``batch`` in all."""
    step, size = step_of(model), FLOAT32 * parameters(model)
    if batch is not None:
        step = with_batch(step, max(1, batch // gpus))
    compute = step.seconds * slowest(gpus, hardware.sigma)
    exchange = 0.0 if gpus == 1 else exchange_seconds(size, gpus, hardware)
    visible = max(exchange - overlap * step.seconds, 0.0)
    total = compute + visible
    images = gpus * step.images / total
    ideal = gpus * step_of(model).images / step_of(model).seconds
    return [
        model.removeprefix("convnextv2_"), f"{gpus:,}", f"{size / 1e6:,.0f}", f"{1e3 * step.seconds:.1f}",
        f"{1e3 * (compute - step.seconds):.1f}", f"{1e3 * exchange:.1f}", f"{1e3 * visible:.1f}", f"{images:,.0f}",
        f"{images / ideal:.0%}",
    ]  # fmt: skip


def table(head: list[str], rows: list[list[str]]) -> str:
    """In Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]) + "\n"


def print_tables(args: argparse.Namespace, hardware: Hardware) -> None:
    """All of them."""
    head = ["network", "GPUs", "gradients, MB", "step on one, ms", "slowest, ms", "exchange, ms", "not hidden, ms",
            "images/s", "of linear"]  # fmt: skip
    for overlap, what in ((0.0, "no overlap (a captured step, the default on CUDA)"),
                          (0.6, "60% of a step hides the exchange (DDP, --train.cuda_graphs false)")):  # fmt: skip
        print(f"\n### A step, {what}\n")
        rows = [row_of(model, gpus, hardware, overlap) for model in args.models for gpus in args.gpus]
        print(table(head, rows))
    print(f"\n### A step of {args.batch:,} images in all, no overlap\n")
    rows = [row_of(model, gpus, hardware, 0.0, args.batch) for model in args.models for gpus in args.gpus]
    print(table(head, rows))
    print("\n### Images\n")
    rows = []
    for model in args.models:
        for gpus in args.gpus:
            need = float(row_of(model, gpus, hardware, 0.0)[7].replace(",", ""))
            for kind, per_core in IMAGES_PER_CORE.items():
                cores = need / per_core / gpus
                read = need * KILOBYTES[kind] * 1e3
                enough = cores <= hardware.cores and read <= hardware.storage
                rows.append([
                    model.removeprefix("convnextv2_"), f"{gpus:,}", kind, f"{need:,.0f}", f"{cores:.1f}",
                    f"{cores / FOUR_CROPS[kind]:.1f}", f"{read / 1e9:.2f}", "yes" if enough else "no",
                ])  # fmt: skip
    print(table(["network", "GPUs", "JPEGs", "images/s needed", "cores per GPU", "with 4 crops of each", "GB/s read",
                 f"enough ({hardware.cores} cores, {hardware.storage / 1e9:g} GB/s)"], rows))  # fmt: skip
    print("\n### Checkpoints and failures\n")
    rows = []
    for model in args.models:
        for gpus in args.gpus:
            write, between = checkpoint_bytes(model) / hardware.disk, 3600 * hardware.hours / gpus
            every = best_interval(write, between)
            rows.append([
                model.removeprefix("convnextv2_"), f"{gpus:,}", f"{checkpoint_bytes(model) / 1e9:.2f}", f"{write:.1f}",
                f"{between / 3600:,.0f}", f"{every / 60:.0f}", f"{waste(write, every, hardware.startup, between):.2%}",
                f"{waste(write, 3600, hardware.startup, between):.2%}",
            ])  # fmt: skip
    print(table(["network", "GPUs", "GB", "writing, s", "hours between failures", "best interval, min", "lost then",
                 "lost with one an hour"], rows))  # fmt: skip
    print("\n### Memory of weights, gradients and AdamW, and FSDP2's exchange\n")
    rows = []
    for model in args.models:
        state = 4 * FLOAT32 * parameters(model)
        for gpus in args.gpus:
            sharded = sharded_seconds(FLOAT32 * parameters(model), gpus, hardware)
            whole = exchange_seconds(FLOAT32 * parameters(model), gpus, hardware)
            rows.append([
                model.removeprefix("convnextv2_"), f"{gpus:,}", f"{state / 1e9:.2f}", f"{state / gpus / 1e9:.3f}",
                f"{1e3 * whole:.1f}", f"{1e3 * sharded:.1f}",
            ])  # fmt: skip
    print(table(["network", "GPUs", "GB per GPU, DDP", "GB per GPU, FSDP2", "exchange, DDP, ms",
                 "exchange, FSDP2, ms"], rows))  # fmt: skip


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Hardware()
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64, 1024])
    parser.add_argument("--models", nargs="+", default=list(GMACS), choices=list(GMACS))
    parser.add_argument("--batch", type=int, default=4096, help="images of a step in all, for one of the tables")
    parser.add_argument("--bandwidth", type=float, default=default.bandwidth / 1e9, help="GB/s per GPU between nodes")
    parser.add_argument("--inside", type=float, default=default.inside / 1e9, help="GB/s per GPU within a node")
    parser.add_argument("--latency", type=float, default=default.latency * 1e6, help="µs of a round")
    parser.add_argument("--disk", type=float, default=default.disk / 1e9, help="GB/s of a checkpoint")
    parser.add_argument("--storage", type=float, default=default.storage / 1e9, help="GB/s of all images")
    parser.add_argument("--cores", type=int, default=default.cores, help="processor cores per GPU")
    parser.add_argument("--sigma", type=float, default=default.sigma, help="spread of a GPU's step times")
    parser.add_argument("--hours", type=float, default=default.hours, help="between failures of one GPU")
    parser.add_argument("--startup", type=float, default=default.startup, help="seconds from a failure to a step")
    parser.add_argument("--check", action="store_true", help="compare predictions with what runs here")
    args = parser.parse_args()
    if args.check:
        from benchmarks import cluster_checks

        print(table(["what", "predicted", "measured", "error"], cluster_checks.all_checks()))
        return
    hardware = Hardware(
        bandwidth=1e9 * args.bandwidth, inside=1e9 * args.inside, latency=1e-6 * args.latency, disk=1e9 * args.disk,
        storage=1e9 * args.storage, cores=args.cores, sigma=args.sigma, hours=args.hours, startup=args.startup,
    )  # fmt: skip
    print(f"{hardware}; {', '.join(f'{model}: {step_of(model).source}' for model in args.models)}")
    print_tables(args, hardware)


if __name__ == "__main__":
    main()

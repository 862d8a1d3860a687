"""One table of several ways to do the same, alternating in one process; one whose numbers are wrong is not timed.

Rows are model × backend × dtype; columns the median time and its range, images/s, the ratio to ``masked`` of the same
model and dtype, the peak of memory, and two shares: of the machine's matrix-product peak, and of the bound that the
path's own matrix products set. Both peaks are measured in the same run.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks import timing
from benchmarks.measure import PEAK_SIZE, MatrixProducts, matmul_peak, peak_memory

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TOLERANCE = {"fp32": 1e-3, "bf16": 0.1}  # relative, of the gradients of all parameters together


class Row(NamedTuple):
    """One path."""

    model: str
    backend: str
    dtype: str
    network: nn.Module
    forward: Callable[[], Tensor]
    """A scalar to call backward on."""


def options(description: str) -> argparse.ArgumentParser:
    """The command line that the comparisons share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["convnextv2_atto"])
    parser.add_argument("--backends", nargs="+", default=["grid", "masked"])
    parser.add_argument("--dtypes", nargs="+", default=["fp32"], choices=DTYPES)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--mask-ratio", type=float, default=0.6)
    parser.add_argument("--checkpoint-stages", nargs="*", type=int, default=[], help="recompute these stages' blocks")
    parser.add_argument("--compile", action="store_true", help="torch.compile every path")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def step(row: Row, device: torch.device) -> Callable[[], Tensor]:
    """Forward and backward of a row, in its precision."""

    def run() -> Tensor:
        row.network.zero_grad(set_to_none=True)
        with torch.autocast(device.type, DTYPES[row.dtype], enabled=row.dtype != "fp32"):
            loss = row.forward()
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return loss.detach()

    return run


def check_equal(rows: list[Row], device: torch.device) -> None:
    """Refuse to time a path whose loss or gradients are not those of the first of its model."""
    expected: dict[str, Tensor] = {}
    for row in sorted(rows, key=lambda row: TOLERANCE[row.dtype]):  # the most precise first
        loss = step(row, device)()
        gradients = [p.grad.float().flatten() for p in row.network.parameters() if p.grad is not None]
        got = torch.cat([loss.float().view(1), *gradients])
        first = expected.setdefault(row.model, got)
        error = float((got - first).norm() / first.norm())
        if not error < TOLERANCE[row.dtype]:
            raise SystemExit(f"not timed: {row.model} {row.backend} {row.dtype} differs from the first by {error:.1e}")


def print_table(rows: list[Row], args: argparse.Namespace, title: str) -> None:
    """Check, time and print; Markdown, so that it can be pasted into docs/benchmarks.md."""
    device = torch.device(args.device)
    check_equal(rows, device)
    names = [f"{row.model} {row.backend} {row.dtype}" for row in rows]
    runs = dict(zip(names, (step(row, device) for row in rows), strict=True))
    memory = {name: peak_memory(run, device) for name, run in runs.items()}
    products: dict[str, MatrixProducts] = {}
    for name, run in runs.items():
        with torch.compiler.set_stance("force_eager"), MatrixProducts() as products[name]:
            run()

    def synchronised(run: Callable[[], object]) -> Callable[[], object]:
        def and_wait() -> None:
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()

        return and_wait

    paths: dict[str, Callable[[], object]] = dict(runs)
    paths |= {f"products of {name}": synchronised(p.run) for name, p in products.items()}
    paths |= {f"peak {dtype}": synchronised(matmul_peak(DTYPES[dtype], device)) for dtype in args.dtypes}
    seconds = timing.alternate(paths, args.repeats)
    median = {name: statistics.median(values) for name, values in seconds.items()}

    print(f"{title}, batch {args.batch_size}, {args.img_size}², mask ratio {args.mask_ratio:g}")
    print(f"{timing.machine(device)}; {args.repeats} rounds{', compiled' if args.compile else ''}\n")
    print("| model | backend | dtype | ms (range) | images/s | × masked (range) | peak MiB | of peak | of bound |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row, name in zip(rows, names, strict=True):
        fast, slow = min(seconds[name]), max(seconds[name])
        baseline = f"{row.model} masked {row.dtype}"
        against = "%.2f (%.2f … %.2f)" % timing.ratio(seconds, baseline, name) if baseline in seconds else "–"  # noqa: UP031
        peak = 2 * PEAK_SIZE**3 / median[f"peak {row.dtype}"]
        cells = [
            *(row.model, row.backend, row.dtype),
            f"{1e3 * median[name]:.0f} ({1e3 * fast:.0f} … {1e3 * slow:.0f})",
            f"{args.batch_size / median[name]:.1f}",
            against,
            f"{memory[name] / 2**20:.0f}",
            f"{products[name].flops / median[name] / peak:.0%}",
            f"{median[f'products of {name}'] / median[name]:.0%}",
        ]
        print(f"| {' | '.join(cells)} |")

"""One table of backends that alternate in one process. Results are checked first; a mismatch aborts the benchmark.

One row per model, backend and dtype. Columns: median time and range, images/s, ratio to ``masked`` (or another
baseline) with the same model and dtype, peak memory, share of the machine's matrix-product peak, and share of the bound
set by the row's own matrix products. Peak and bound are measured in the same run.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn

from benchmarks import timing
from benchmarks.measure import PEAK_SIZE, MatrixProducts, matmul_peak, peak_memory
from fcmae.cli.matmul import use_exact_onednn
from fcmae.models.config import BackendName

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Relative: of the output and of each gradient, and of all gradients together. In bfloat16 a few gradients (biases of
# the first norms, sums that nearly cancel) are off by 0.16 from float32, by as much in every backend; the whole is off
# by 0.005.
EACH, TOGETHER = {"fp32": 1e-3, "bf16": 0.3}, {"fp32": 1e-4, "bf16": 0.02}


class Row(NamedTuple):
    """One row of the table."""

    model: str
    backend: str
    dtype: str
    network: nn.Module
    forward: Callable[[], Tensor]
    gradient: Tensor | None = None
    """Gradient to the output for backward; None: the output is a scalar loss."""


def options(description: str) -> argparse.ArgumentParser:
    """The command line that comparisons share."""
    parser = timing.batch_options(description)
    parser.add_argument("--models", nargs="+", default=["convnextv2_atto"])
    parser.add_argument("--backends", nargs="+", default=["auto", "masked"], choices=get_args(BackendName))
    parser.add_argument("--dtypes", nargs="+", default=["fp32"], choices=DTYPES)
    parser.add_argument(
        "--checkpoint-stages", nargs="*", type=int, default=[], help="recompute the blocks of these stages in backward"
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile every network")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def step(row: Row, device: torch.device) -> Callable[[], Tensor]:
    """Forward and backward of a row, in its precision."""

    def run() -> Tensor:
        row.network.zero_grad(set_to_none=True)
        with torch.autocast(device.type, DTYPES[row.dtype], enabled=row.dtype != "fp32"):
            out = row.forward()
        out.backward(row.gradient if row.gradient is None else row.gradient.to(out.dtype))
        if device.type == "cuda":
            torch.cuda.synchronize()
        return out.detach()

    return run


def check_equal(rows: list[Row], device: torch.device) -> None:
    """Abort if a row differs from its model's most precise row in the output or any gradient."""
    expected: dict[str, dict[str, Tensor]] = {}
    for row in sorted(rows, key=lambda row: EACH[row.dtype]):
        got = {"the output": step(row, device)().float()}
        got |= {f"the gradient of {n}": p.grad.float() for n, p in row.network.named_parameters() if p.grad is not None}
        got["all gradients together"] = torch.cat([t.flatten() for name, t in got.items() if name != "the output"])
        for what, first in expected.setdefault(row.model, got).items():
            error = float((got[what] - first).norm() / first.norm())
            if not error < (TOGETHER if what.startswith("all") else EACH)[row.dtype]:
                raise SystemExit(f"not timed: {row.model} {row.backend} {row.dtype} differs in {what} by {error:.1e}")


def print_table(rows: list[Row], args: argparse.Namespace, title: str, baseline: str = "masked") -> None:
    """Check, time and print a Markdown table for docs/benchmarks.md, with ratios to the backend ``baseline``."""
    device = torch.device(args.device)
    use_exact_onednn()  # before what is timed is checked
    check_equal(rows, device)
    names = [f"{row.model} {row.backend} {row.dtype}" for row in rows]
    runs = dict(zip(names, (step(row, device) for row in rows), strict=True))
    memory = {name: peak_memory(run, device) for name, run in runs.items()}
    products: dict[str, MatrixProducts] = {}
    for name, run in runs.items():
        with torch.compiler.set_stance("force_eager"), MatrixProducts() as products[name]:
            run()

    def synchronized(run: Callable[[], object]) -> Callable[[], object]:
        def and_wait() -> None:
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()

        return and_wait

    paths: dict[str, Callable[[], object]] = dict(runs)
    paths |= {f"products of {name}": synchronized(p.run) for name, p in products.items()}
    paths |= {f"peak {dtype}": synchronized(matmul_peak(DTYPES[dtype], device)) for dtype in args.dtypes}
    seconds = timing.alternate(paths, args.repeats)
    median = {name: statistics.median(values) for name, values in seconds.items()}

    print(f"{title}, batch {args.batch_size}, {args.img_size}², mask ratio {args.mask_ratio:g}")
    print(f"{timing.machine(device)}; {args.repeats} rounds{', compiled' if args.compile else ''}\n")
    print(f"| model | backend | dtype | ms (range) | images/s | × {baseline} (range) | peak MiB | of peak | of bound |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row, name in zip(rows, names, strict=True):
        fast, slow = min(seconds[name]), max(seconds[name])
        slow_row = f"{row.model} {baseline} {row.dtype}"
        against = "%.2f (%.2f … %.2f)" % timing.ratio(seconds, slow_row, name) if slow_row in seconds else "–"  # noqa: UP031
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

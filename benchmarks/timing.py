"""Time several implementations alternately in one process, so that noise affects all alike."""

import argparse
import importlib.metadata
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from fcmae.cli.allocator import keep_freed_memory
from fcmae.cli.matmul import use_exact_onednn
from fcmae.sparse.backends.registry import resolve_backend


def options(description: str, repeats: int = 15) -> argparse.ArgumentParser:
    """Options that all benchmarks share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=repeats, help="rounds; each runs every implementation once")
    return parser


def batch_options(description: str) -> argparse.ArgumentParser:
    """Options of benchmarks that run on a batch of masked images."""
    parser = options(description)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--mask-ratio", type=float, default=0.6)
    parser.add_argument("--threads", type=int, default=2)
    return parser


def alternate(
    paths: dict[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each run: one warm-up, then ``repeats`` rounds that run every path once."""
    keep_freed_memory()  # as every command does
    use_exact_onednn()
    for run in paths.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(repeats):
        for name, run in paths.items():
            start = clock()
            run()
            seconds[name].append(clock() - start)
    return seconds


def ratio(seconds: dict[str, list[float]], slow: str, fast: str) -> tuple[float, float, float]:
    """Median, lowest and highest of slow/fast over the rounds."""
    ratios = sorted(a / b for a, b in zip(seconds[slow], seconds[fast], strict=True))
    return statistics.median(ratios), ratios[0], ratios[-1]


def table(seconds: dict[str, list[float]], images: int, baseline: str) -> str:
    """One line per path: median milliseconds, images/s, and speed relative to the baseline (lowest … highest)."""
    lines = [f"{'path':<22}{'ms':>9}{'images/s':>11}   × {baseline} (range over rounds)"]
    for name, runs in seconds.items():
        median = statistics.median(runs)
        middle, low, high = ratio(seconds, baseline, name)
        lines.append(f"{name:<22}{1e3 * median:>9.3g}{images / median:>11.1f}   {middle:.2f} ({low:.2f} … {high:.2f})")
    return "\n".join(lines)


def machine(device: torch.device | None = None) -> str:
    """Processor and threads, or the GPU's name, with versions, in one line."""
    if device is not None and device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    numba = importlib.metadata.version("numba") if resolve_backend("auto").name == "numba" else "not used"
    return f"{model}, {torch.get_num_threads()} threads, torch {torch.__version__}, numba {numba}"

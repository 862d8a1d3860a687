"""Machine code of the Triton kernels for four kinds of GPU, compiled and read without one."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[4]
KERNELS = [("forward", 4), ("stem rows", 8), ("GRN weights backward", 8)] + [
    (name, 1)
    for name in (
        "neighbors", "forward", "wgrad", "LayerNorm", "LayerNorm backward", "GELU", "GELU backward", "GRN",
        "GRN statistics", "GRN statistics backward", "GRN sums backward", "target pixels",
    )
]  # fmt: skip


def costs(*options: str) -> list[dict]:
    """benchmarks/kernel_cost.py in a process of its own: here the interpreter runs what it would compile."""
    command = [sys.executable, "-m", "benchmarks.kernel_cost", "--batch-size", "16", "--json", "--check", *options]
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_kernel_compiles_for_every_architecture_and_none_spills() -> None:
    """Each once: s = 4 slides past a patch, s = 1 visits neighbors and applies GRN by kernel."""
    everywhere = ("--arch", "80", "89", "90", "100")
    found = costs(*everywhere, "--sides", "1") + costs(*everywhere, "--sides", "4", "--kernels", "forward")
    found += costs(*everywhere, "--sides", "8", "--kernels", "stem", "weights")
    assert {(cost["arch"], cost["name"], cost["side"]) for cost in found} == {
        (arch, *kernel) for arch in (80, 89, 90, 100) for kernel in KERNELS
    }
    for cost in found:
        assert cost["spills"] == 0, cost
        assert 0 < cost["registers"] <= 255
        assert cost["least"] <= cost["asked"]


def test_depthwise_loops_are_mostly_products() -> None:
    """On an H100 in bfloat16: at most 2.6 instructions per FFMA forward, 3.5 in wgrad."""
    for cost in costs("--sides", "8", "4", "--kernels", "forward", "wgrad"):
        per_ffma = cost["loop"] / cost["ffma"]
        assert per_ffma <= (2.6 if cost["name"] == "forward" else 3.5), cost
        assert per_ffma >= 1


def test_layer_norm_gelu_and_grn_read_and_write_each_value_once() -> None:
    """One load or store of a tile for each tensor of features; so what they ask for is the least there is."""
    passes = {
        "LayerNorm": 2, "LayerNorm backward": 3, "GELU": 2, "GELU backward": 3, "GRN": 2, "GRN sums backward": 2,
        "GRN weights backward": 2,
    }  # fmt: skip
    found = costs("--sides", "8", "4", "--kernels", "LayerNorm", "GELU", "GRN")
    for cost in found:
        assert cost["passes"] == cost["tensors"] == passes.get(cost["name"], 0), cost
        assert cost["asked"] == cost["least"], cost
    assert {cost["name"] for cost in found} >= set(passes)

"""Machine code of the Triton kernels for four kinds of GPU, compiled and read without one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
KERNELS = {
    *((name, side) for name in ("forward", "wgrad") for side in (8, 4, 2)),
    ("stem rows", 8), ("GRN weights backward", 8), *(
        (name, 1)
        for name in (
            "neighbors", "forward", "wgrad", "LayerNorm", "LayerNorm backward", "GELU", "GELU backward", "GRN",
            "GRN statistics", "GRN statistics backward", "GRN sums backward", "target pixels",
        )
    ),
}  # fmt: skip
DEPTHWISE = [f"{name} {side}" for name in ("forward", "wgrad") for side in (8, 4, 2)]


def costs(*options: str) -> list[dict]:
    """benchmarks/kernel_cost.py in a process of its own: here the interpreter runs what it would compile."""
    command = [sys.executable, "-m", "benchmarks.kernel_cost", "--batch-size", "16", "--json", "--check", *options]
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def everywhere() -> list[dict]:
    """Each kernel everywhere: at s = 8 and 4 it slides past a patch; at 2 and 1 it visits neighbors."""
    kernels = ["--kernels", " 1", *DEPTHWISE, "stem", "GRN weights backward 8"]
    return costs("--usage-only", "--arch", "80", "89", "90", "100", *kernels)


@pytest.fixture(scope="module")
def on_h100() -> list[dict]:
    """With their instructions: the loops, and passes that are others at s = 8, where GRN is in the weights."""
    return costs("--kernels", *(f"{name} {s}" for name in ("forward", "wgrad") for s in (8, 4)), *AT_8)


AT_8 = ("LayerNorm 8", "LayerNorm backward 8", "GELU backward 8")


def test_every_kernel_compiles_for_every_architecture_and_none_spills(everywhere: list[dict]) -> None:
    assert {(cost["arch"], cost["name"], cost["side"]) for cost in everywhere} == {
        (arch, *kernel) for arch in (80, 89, 90, 100) for kernel in KERNELS
    }
    for cost in everywhere:
        assert_it_fits(cost)


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_other_dtypes_compile_and_none_spills(dtype: str) -> None:
    kernels = ["forward 8", "wgrad 8", "forward 1", "wgrad 1", "LayerNorm 1", "LayerNorm backward 1", "GELU 1"]
    found = costs("--usage-only", "--dtype", dtype, "--kernels", *kernels)
    assert {f"{cost['name']} {cost['side']}" for cost in found} == set(kernels)
    for cost in found:
        assert_it_fits(cost)


def assert_it_fits(cost: dict) -> None:
    assert cost["spills"] == 0, cost
    assert 0 < cost["registers"] <= 255
    assert cost["least"] <= cost["asked"]


def test_depthwise_loops_are_mostly_products(on_h100: list[dict]) -> None:
    """On an H100 in bfloat16: at most 2.6 instructions per FFMA forward, 3.5 in wgrad."""
    found = [cost for cost in on_h100 if cost["name"] in ("forward", "wgrad")]
    assert len(found) == 4
    for cost in found:
        per_ffma = cost["loop"] / cost["ffma"]
        assert per_ffma <= (2.6 if cost["name"] == "forward" else 3.5), cost
        assert per_ffma >= 1
        assert cost["spills"] == 0


def test_layer_norm_gelu_and_grn_read_and_write_each_value_once(everywhere: list[dict], on_h100: list[dict]) -> None:
    """One load or store of a tile for each tensor of features; so what they ask for is the least there is."""
    passes = {
        "LayerNorm": 2, "LayerNorm backward": 3, "GELU": 2, "GELU backward": 3, "GRN": 2, "GRN sums backward": 2,
        "GRN weights backward": 2, "GRN statistics": 0, "GRN statistics backward": 0,
    }  # fmt: skip
    found = [cost for cost in everywhere + on_h100 if cost["name"] in passes]
    for cost in found:
        assert cost["passes"] == cost["tensors"] == passes[cost["name"]], cost
        assert cost["asked"] == cost["least"], cost
    assert {cost["name"] for cost in found} == set(passes)
    assert {cost["side"] for cost in found if cost["name"] == "GELU backward"} == {1, 8}

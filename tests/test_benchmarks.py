"""The benchmarks can be run: each module imports, and what it takes by name is still there."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", sorted(file.stem for file in (ROOT / "benchmarks").glob("[a-z]*.py")))
def test_every_benchmark_imports(name: str) -> None:
    importlib.import_module(f"benchmarks.{name}")

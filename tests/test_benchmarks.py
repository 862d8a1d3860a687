"""The benchmarks can be run: each module imports, and what it takes by name is still there."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", sorted(file.stem for file in (ROOT / "benchmarks").glob("[a-z]*.py")))
def test_every_benchmark_imports(name: str) -> None:
    importlib.import_module(f"benchmarks.{name}")


def run(*args: str) -> str:
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", *args], cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="it forks the processes that it ends")
def test_runs_that_are_ended_at_random_go_on_as_if_nothing_had_happened() -> None:
    said = run("benchmarks.kills", "--events", "2", "--processes", "2", "--epochs", "4")
    assert "2 process(es)" in said
    assert "; 0 wrong" in said


def test_a_run_over_mutated_files_names_each_once() -> None:
    said = run("benchmarks.mutated_files", "--count", "12")
    assert "12 mutated files of each of 12 formats in one run: " in said
    assert ", 0 wrong" in said
    assert int(said.partition("in one run: ")[2].split()[0]) > 40

"""The benchmarks can be run: each module imports, and what it takes by name is still there; gpu.sh on a CPU."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import mutated_files
from benchmarks.gpu import common, kernels, steps
from benchmarks.gpu.recorded import Recorder
from benchmarks.kills import outcome
from fcmae.sparse.backends.registry import resolve_backend
from fcmae.sparse.sites import ActiveSites
from tests.conftest import random_visible
from tests.fcmae import forked
from tests.fcmae.data.reading.fuzz import SEEDS

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts) for file in (ROOT / "benchmarks").rglob("[a-z]*.py")
)


@pytest.mark.parametrize("name", MODULES)
def test_every_benchmark_imports(name: str) -> None:
    importlib.import_module(name)


def test_gpu_script_goes_on_after_a_stage_that_fails(tmp_path: Path) -> None:
    """What fails is named and counted; the stages after it still fill their tables."""
    output = tmp_path / "tables.md"
    command = ["benchmarks/gpu.sh", "--device", "cpu", "--small", "--output", str(output), "--stages"]
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run([*command, "nonsense machine"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "no stage is called nonsense" in done.stderr
    assert "### The machine" in output.read_text()
    assert "TFLOP/s" in output.read_text()
    broken = subprocess.run([*command, "machine"], cwd=ROOT, env={**environment, "PYTHON": "false"}, check=False)
    assert broken.returncode == 1
    assert "This stage ended with status 1" in output.read_text()


def test_gpu_script_takes_six_minutes_at_most() -> None:
    """The time limits of its stages together; a stage begins no row that its own limit leaves no time for."""
    stages = re.findall(r"\) run \"[^\"]+\" (\d+) \S+([^;]*);;", (ROOT / "benchmarks/gpu.sh").read_text())
    assert len(stages) == 7
    assert sum(int(seconds) for seconds, _ in stages) <= 360
    for seconds, options in stages:
        for limit in re.findall(r"--limit (\d+)", options):
            assert int(limit) < int(seconds)


def test_gpu_steps_refuse_what_is_wrong(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A row that fails, or whose loss differs, is no row of numbers, and the rows after it are measured."""
    options = ["steps", "--device", "cpu", "--small", "--rows", "nowhere/eager", "torch/eager", "masked/eager"]
    monkeypatch.setattr(sys, "argv", options)
    assert steps.main() == 1
    said = capsys.readouterr().out
    assert "**failed**: ValueError" in said
    assert said.count(" … ") == 2
    monkeypatch.setattr(steps, "LOSS_ERROR", -1.0)
    assert steps.main() == 1
    assert "not timed: the loss is" in capsys.readouterr().out


def test_recorder_keeps_each_launch_once_and_counts_it() -> None:
    sites, conv = ActiveSites(random_visible(1, 1, 2, 1)), resolve_backend("triton").depthwise_conv
    x, weight = torch.randn(4, 3), torch.randn(3, 1, 3, 3)
    with Recorder() as recorder:
        for _ in range(2):
            conv(x, weight, None, sites, 2)
    assert {(found.name, found.count) for found in recorder.found.values()} == {("neighbors", 1), ("near", 2)}
    near = next(found for found in recorder.found.values() if found.name == "near")
    assert near.shape == ("s = 2", "3")
    assert near.least >= 2 * x.nbytes + weight.nbytes
    assert kernels.key_of(near, visible_patches=1, patches=2) == ("forward", "3", 2)
    assert kernels.key_of(near, visible_patches=3, patches=5) is None
    assert kernels.key_of(near, visible_patches=1, patches=4) == ("decoder forward", "3", 1)
    assert common.size(type("Args", (), {"img_size": (32, 64)})) == "32×64"


def kills(log: Path, *options: str, is_small: bool = True) -> str:
    """What the benchmark says."""
    environment = {"OMP_NUM_THREADS": "1", "TMPDIR": str(log.parent)}
    process = forked.start("benchmarks.kills", options, log, environment, is_small)
    process.join(600)
    said = log.read_text()
    assert process.exitcode == 0, said[-3000:]
    return said


@pytest.mark.skipif(not hasattr(os, "fork"), reason="it forks the processes that it ends")
def test_runs_that_are_ended_at_random_go_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    said = kills(tmp_path / "log", "--events", "2", "--processes", "2", "--epochs", "4")
    assert "2 process(es)" in said
    assert "; 0 wrong" in said


@pytest.mark.skipif(not hasattr(os, "fork"), reason="it forks the processes that it ends")
def test_a_killed_run_of_fine_tuning_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """With everything that draws random numbers, an average of the weights, and the best of them."""
    options = ["--events", "1", "--processes", "1", "--epochs", "5", "--kinds", "kill training"]
    said = kills(tmp_path / "log", "--task", "finetune", *options, is_small=False)  # timm's network
    assert "'kill training': 1" in said
    assert "; 0 wrong" in said


def test_kills_compares_exports_and_classes(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    (tmp_path / "export" / "timm").mkdir(parents=True)
    files = {"exports": tmp_path / "export" / "timm" / "config.json", "classes": tmp_path / "classes.json"}
    for file in files.values():
        file.write_text("{}")
    before = outcome(tmp_path)
    for name, file in files.items():
        file.unlink()
        now = outcome(tmp_path)
        assert [one for one in before if now[one] != before[one]] == [name]
        file.write_text("{}")


def test_a_run_over_mutated_files_names_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(images: Path, run: Path, log: Path) -> tuple[int, float]:
        options = [*mutated_files.SMALL, "--data.path", str(images), "--output", str(run)]
        process = forked.start("fcmae.pretrain", options, log, {"OMP_NUM_THREADS": "1"})
        memory = mutated_files.largest_memory(process.pid or 0, lambda: process.exitcode is not None)
        return process.exitcode or 0, memory

    monkeypatch.setattr(mutated_files, "train", train)
    monkeypatch.setattr(sys, "argv", ["mutated_files", "--count", "3"])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        mutated_files.main()
    said = capsys.readouterr().out
    assert ended.value.code == 0, said
    assert f"3 mutated files of each of {len(SEEDS)} formats in one run: " in said
    assert ", 0 wrong" in said
    assert int(said.partition("in one run: ")[2].split()[0]) > 20

"""Damaged files are that file's fault: one line, soon, within a bounded memory, whatever the header promises."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fcmae.data.reading.fuzz import SEEDS

COUNT, SECONDS, MEMORY = 60, 5, 8 * 2**30


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone bounds a process's address space")
def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    import resource

    command = [sys.executable, "-m", "tests.fcmae.data.reading.fuzz", str(COUNT), str(tmp_path / "image"), *SEEDS]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == len(SEEDS)
    for kind, (read, refused, slowest) in zip(SEEDS, lines, strict=True):
        assert int(read) + int(refused) == COUNT
        assert int(refused) > 0, kind
        assert float(slowest) < SECONDS, kind
    assert not done.stderr

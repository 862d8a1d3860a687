"""What a step frees is not fetched from the system again."""

import os
import platform
import subprocess
import sys

import pytest

from fcmae.allocator import SETTINGS

CODE = """
import resource, sys, torch
from fcmae.allocator import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else None
def step():
    many = [torch.ones(5 << 20) for _ in range(8)]  # 20 MiB each
for _ in range(3): step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3): step()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(how: str, **env: str) -> list[str]:
    env = {name: value for name, value in os.environ.items() if name not in SETTINGS} | env
    done = subprocess.run(
        [sys.executable, "-c", CODE, how], check=True, capture_output=True, text=True, timeout=120, env=env
    )
    return done.stdout.split()


def test_freed_memory_is_kept() -> None:
    kept, faults = run("keep")
    _, faults_without = run("leave")
    if platform.libc_ver()[0] == "glibc":
        assert kept == "True"
        assert int(faults) < 100 < int(faults_without)
    else:
        assert int(faults) >= 0  # whatever this library does, the call does no harm


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_the_users_own_settings_stay(name: str) -> None:
    value = "glibc.malloc.trim_threshold=131072" if name == "GLIBC_TUNABLES" else "131072"
    assert run("keep", **{name: value})[0] == "False"

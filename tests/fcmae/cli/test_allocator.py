"""What a step frees is not fetched from the system again."""

import os
import platform
import subprocess
import sys

import pytest

from fcmae.cli.allocator import SETTINGS

CODE = """
import resource, torch
from fcmae.cli.allocator import keep_freed_memory
kept = keep_freed_memory()
def step():
    many = [torch.ones(5 << 20) for _ in range(8)]  # 20 MiB each
for _ in range(3): step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3): step()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(**env: str) -> list[str]:
    env = {name: value for name, value in os.environ.items() if name not in SETTINGS} | env
    done = subprocess.run(
        [sys.executable, "-c", CODE], check=True, capture_output=True, text=True, timeout=120, env=env
    )
    return done.stdout.split()


def test_freed_memory_is_kept() -> None:
    kept, faults = run()
    if platform.libc_ver()[0] == "glibc":
        assert kept == "True"
        assert int(faults) < 100
    else:  # the call does no harm
        assert kept == "False"


@pytest.mark.parametrize("name", ["MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"])
def test_the_users_own_settings_stay(name: str) -> None:
    """Here, that what is freed goes back at once: 160 MiB a step, 80 pages if they are huge ones."""
    value = "glibc.malloc.mmap_threshold=131072" if name == "GLIBC_TUNABLES" else "131072"
    kept, faults = run(**{name: value})
    assert kept == "False"
    if platform.libc_ver()[0] == "glibc":
        assert int(faults) > 200

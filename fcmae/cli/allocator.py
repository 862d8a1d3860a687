"""Memory that a step frees is kept for the next one.

glibc gives large blocks back to the system as soon as they are freed, and the next step gets them anew, page by page,
each filled with zeros first: up to a quarter of a step on a CPU, depending on how busy the machine is
(docs/benchmarks.md). PyTorch has no cache of its own there.
"""

import ctypes
import os

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # malloc.h
NEVER = -1
LARGE = (1 << 30, 32 << 20)  # bytes; blocks from here on still go back at once. Older versions refuse more than 32 MiB
SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """For this process, until it ends; whether it could be set.

    Elsewhere than on glibc (musl, macOS, Windows) nothing is done, nor where the environment sets its allocator.
    An allocator that was preloaded instead is not changed by it.
    """
    mallopt = None if os.name == "nt" else getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or any(name in os.environ for name in SETTINGS):
        return False
    return bool(mallopt(TRIM_THRESHOLD, NEVER)) and any(mallopt(MMAP_THRESHOLD, size) for size in LARGE)

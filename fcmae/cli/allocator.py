"""Makes glibc keep freed memory for the next training step.

By default glibc returns large blocks to the system as soon as they are freed, and the next step faults in zeroed pages
again, which slows down training on a CPU (docs/benchmarks.md). PyTorch has no caching allocator for the CPU.
"""

import ctypes
import os

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # malloc.h
NEVER = -1
LARGE = (1 << 30, 32 << 20)  # bytes; blocks of this size are still returned at once. Older versions refuse >32 MiB
SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Configure the allocator for the rest of this process; returns whether it worked.

    Does nothing without glibc (musl, macOS, Windows) or if the environment already configures malloc. A preloaded
    allocator is not affected.
    """
    mallopt = None if os.name == "nt" else getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or any(name in os.environ for name in SETTINGS):
        return False
    return bool(mallopt(TRIM_THRESHOLD, NEVER)) and any(mallopt(MMAP_THRESHOLD, size) for size in LARGE)

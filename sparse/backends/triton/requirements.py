"""What Triton needs of a machine with a GPU. On first use it builds a module in C, which calls the GPU's driver."""

import os
import shutil
import sysconfig
from functools import cache
from pathlib import Path

import torch

from fcmae.sparse.backends.triton import launch

OLDEST = (7, 0)


def missing_on(device: torch.device) -> str | None:
    """What is missing on a device to compile and run, in words, with what installs it; None: nothing."""
    return launch.missing_on(device) if device.type == "cpu" else _missing_on_gpu(device.index)


@cache
def _missing_on_gpu(index: int | None) -> str | None:
    is_cuda = torch.cuda.is_available() and torch.version.hip is None
    if is_cuda and torch.cuda.get_device_capability(index) < OLDEST:
        return "a GPU of compute capability 7.0 or newer"
    return missing_compiler()


def missing_compiler() -> str | None:
    """Triton looks in the same places: for the compiler that ``CC`` names, gcc or clang, and for Python's headers."""
    if os.name == "nt":  # its builds for Windows bring a compiler
        return None
    chosen = os.environ.get("CC")
    if chosen is not None and shutil.which(chosen) is None:
        return f"a C compiler, and the variable CC names {chosen}, which is not there; unset it, or name another"
    if chosen is None and not any(map(shutil.which, ("gcc", "clang"))):
        return "a C compiler, gcc or clang (Debian: apt-get install gcc; or name one in the variable CC)"
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")  # of Debian's own Python
    header = Path(sysconfig.get_paths(scheme)["include"]) / "Python.h"
    if not header.is_file():
        return f"Python's C headers (Debian: apt-get install python3-dev); there is no {header}"
    return None

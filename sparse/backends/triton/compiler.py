"""Whether Triton can compile: on first use it builds a module in C, which calls the GPU's driver."""

import os
import shutil
import sysconfig
from functools import cache
from pathlib import Path


@cache
def missing_compiler() -> str | None:
    """What is missing, in words, with what installs it; None: nothing. Triton looks in the same places."""
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

"""Float32 matrix products by oneDNN where it is exact and faster than what PyTorch uses: on AMD's processors.

PyTorch leaves float32 products on a CPU to MKL, Intel's library, which reaches less than half of the speed of AMD's
processors (docs/benchmarks.md). It leaves them to oneDNN where bfloat16 is allowed inside of a product. With AVX-512
but without AMX, oneDNN makes no use of that and computes in float32. With AMX it rounds. So the error is measured, not
the time: a run that is resumed must choose the same again.
"""

from pathlib import Path
from typing import Any

import torch

ASKS_ONEDNN, DEFAULT = "medium", "highest"  # of torch.set_float32_matmul_precision
UNSET = "none"
VENDOR = "AuthenticAMD"
CPUINFO = Path("/proc/cpuinfo")  # of Linux; elsewhere the choice is PyTorch's
SIZE = 256
EXACT = 1e-5  # relative error; float32's is 1e-7, bfloat16's 1e-3


def use_exact_onednn() -> None:
    """Let oneDNN compute float32 products for the rest of this process, if they stay float32.

    Does nothing on a processor that is not AMD's, where PyTorch has a GPU, which the same setting concerns, or where it
    has been set already.
    """
    cpu: Any = torch.backends.mkldnn
    if not cpu.is_available() or torch.accelerator.is_available() or cpu.matmul.fp32_precision != UNSET:
        return
    if not CPUINFO.is_file() or VENDOR not in CPUINFO.read_text(errors="replace"):
        return
    torch.set_float32_matmul_precision(ASKS_ONEDNN)
    if not _relative_error() < EXACT:
        torch.set_float32_matmul_precision(DEFAULT)


def _relative_error() -> float:
    """Largest error of a product, relative to its largest element."""
    generator = torch.Generator("cpu").manual_seed(0)  # torch's own state stays as it is
    left, right = torch.randn(2, SIZE, SIZE, generator=generator, dtype=torch.float32, device="cpu")
    expected = left.double() @ right.double()
    return float((left @ right - expected).abs().max() / expected.abs().max())

"""Which machine this is, with which software, and what it does at its best."""

import importlib.util
import os

import torch

from benchmarks import timing
from benchmarks.gpu import common


def main() -> None:
    """Command line."""
    args = common.parse(common.options(__doc__))
    triton = importlib.import_module("triton").__version__ if importlib.util.find_spec("triton") else "not installed"
    memory = torch.cuda.mem_get_info(args.device)[1] / 2**30 if args.device.type == "cuda" else 0
    print(f"{timing.machine(args.device)}, Triton {triton}, {os.cpu_count()} host cores", end="")
    print(f", {memory:.0f} GiB" if memory else "")
    print(common.measured_rates(args.device, args.small))


if __name__ == "__main__":
    main()

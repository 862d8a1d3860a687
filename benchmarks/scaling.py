"""How the cost of a pretraining step grows with image size, mask ratio and batch size, for two backends.

    python -m benchmarks.scaling --models convnextv2_atto

Each line changes one setting from the defaults; both backends alternate.
"""

import argparse
import statistics

import torch

from benchmarks import timing
from benchmarks.compare import options, step
from benchmarks.pretrain_step import make_rows

SETTINGS = {
    "img_size": (128, 192, 224, 320, 384, 512),
    "mask_ratio": (0.0, 0.3, 0.5, 0.6, 0.75, 0.9),
    "batch_size": (1, 4, 8, 16, 32),
}


def measure(args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each backend at one setting."""
    torch.manual_seed(0)
    device = torch.device(args.device)
    return timing.alternate({row.backend: step(row, device) for row in make_rows(args)}, args.repeats)


def main() -> None:
    """Command line."""
    parser = options(__doc__)
    parser.set_defaults(repeats=5, batch_size=8)
    args = parser.parse_args()
    args.peer = []
    torch.set_num_threads(args.threads)
    print(f"{timing.machine(torch.device(args.device))}; {args.repeats} rounds, {' '.join(args.dtypes)}\n")
    first, second = args.backends
    print(f"| model | setting | {first} ms | {second} ms | {first} images/s | × {second} (range) |")
    print("|---|---|---|---|---|---|")
    for model in args.models:
        for setting, values in SETTINGS.items():
            for value in values:
                now = argparse.Namespace(**vars(args) | {"models": [model], setting: value})
                seconds = measure(now)
                fast, slow = (statistics.median(seconds[name]) for name in args.backends)
                ratio = "%.2f (%.2f … %.2f)" % timing.ratio(seconds, second, first)  # noqa: UP031
                print(
                    f"| {model} | {setting} {value:g} | {1e3 * fast:.0f} | {1e3 * slow:.0f} "
                    f"| {now.batch_size / fast:.1f} | {ratio} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()

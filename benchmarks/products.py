"""A step on a CPU with float32 matrix products by PyTorch's choice, and as here (fcmae/cli/matmul.py).

    python -m benchmarks.products --models convnextv2_atto convnextv2_tiny

Pretraining, and fine-tuning (every patch visible), forward + backward; one table. Both give the same gradients.
"""

import argparse
from collections.abc import Callable

import torch

from benchmarks import classifier, compare, pretrain_step, timing
from fcmae.cli.matmul import use_exact_onednn

EXACT = 1e-5  # relative difference of all gradients


def with_products(precision: str, run: Callable[[], object]) -> Callable[[], object]:
    """``run`` with this setting of ``torch.set_float32_matmul_precision``."""

    def set_and_run() -> None:
        torch.set_float32_matmul_precision(precision)
        run()

    return set_and_run


def main() -> None:
    """Command line."""
    parser = compare.options(__doc__ or "")
    parser.set_defaults(backends=["auto"], repeats=9)
    parser.add_argument("--fine-tuning-size", type=int, default=128, help="image size of fine-tuning")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    before = torch.get_float32_matmul_precision()
    use_exact_onednn()
    after = torch.get_float32_matmul_precision()
    if after == before:
        raise SystemExit("not timed: here the commands leave float32 products as they are")
    smaller = argparse.Namespace(**vars(args) | {"img_size": args.fine_tuning_size, "mask_ratio": 0.0})
    rows = [("pretraining", row) for row in pretrain_step.make_rows(argparse.Namespace(**vars(args) | {"peer": []}))]
    rows += [("fine-tuning", row) for row in classifier.make_rows(smaller)]
    print(f"batch {args.batch_size}, {args.img_size}² and {args.fine_tuning_size}², {timing.machine()}\n")
    print(
        "| step | model | backend | PyTorch's, ms | oneDNN's, ms | times as fast (range) |\n|---|---|---|---|---|---|"
    )
    for what, row in rows:
        run = compare.step(row, torch.device("cpu"))
        gradients = []
        for precision in (before, after):
            with_products(precision, run)()
            found = [p.grad.flatten() for p in row.network.parameters() if p.grad is not None]
            gradients.append(torch.cat(found))
        if not (error := float((gradients[1] - gradients[0]).norm() / gradients[0].norm())) < EXACT:
            raise SystemExit(f"not timed: the gradients of {row.model} {row.backend} differ by {error:.1e}")
        seconds = timing.alternate({name: with_products(name, run) for name in (before, after)}, args.repeats)
        slow, fast = (1e3 * sorted(seconds[name])[args.repeats // 2] for name in (before, after))
        gain = "%.2f (%.2f … %.2f)" % timing.ratio(seconds, before, after)  # noqa: UP031
        print(f"| {what} | {row.model} | {row.backend} | {slow:.0f} | {fast:.0f} | {gain} |", flush=True)


if __name__ == "__main__":
    main()

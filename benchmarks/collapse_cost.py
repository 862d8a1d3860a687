"""Cost of the collapse analysis: a forward pass alone and with every block analyzed.

    python -m benchmarks.collapse_cost
    python -m benchmarks.collapse_cost --model convnext_tiny --taps expansion act block

Dense networks are read by hooks. The sparse encoder's fused MLP runs layer by layer during the analysis.
"""

import argparse
import functools
from collections.abc import Callable

import timm
import torch
from torch import Tensor, nn

import fcmae
from benchmarks import timing
from fcmae.analysis.collapse import analyze_collapse
from fcmae.analysis.distance import channel_statistics
from fcmae.analysis.forward import Forward, eval_mode
from fcmae.analysis.taps import TAPS, Features, FoundBlock, find_blocks, watched

TOLERANCE = 1e-5


def check_distances(model: nn.Module, images: Tensor, tap: str) -> None:
    """Abort unless the distances equal those over all pairs of channels in float64."""

    def see(block: FoundBlock, features: Features) -> None:
        x = features.x.double()
        unit = x / x.norm(dim=1, keepdim=True)
        expected = ((1 - unit.mT @ unit) / 2).mean((1, 2))
        error = float((channel_statistics(features.x).distance - expected).abs().max())
        if not error < TOLERANCE:
            raise SystemExit(f"not timed: the distance of {block.name} is off by {error:.1e}")

    with eval_mode(model), watched(model, find_blocks(model), tap, see):
        Forward(model)(images)


def paths_of(model: nn.Module, images: Tensor, taps: list[str]) -> dict[str, Callable[[], object]]:
    """The forward pass alone, and with the analysis at each tap."""
    forward = Forward(model)

    def synchronized(run: Callable[[], object]) -> None:
        run()
        if images.device.type == "cuda":
            torch.cuda.synchronize()

    def alone() -> None:
        with eval_mode(model):
            forward(images)

    analyzed = {tap: functools.partial(analyze_collapse, model, images, tap, batch_size=len(images)) for tap in taps}
    return {name: functools.partial(synchronized, run) for name, run in ({"forward alone": alone} | analyzed).items()}


def main() -> None:
    """Command line."""
    parser = timing.options(__doc__)
    parser.add_argument("--model", default="convnextv2_tiny", help="a timm name")
    parser.add_argument("--taps", nargs="+", default=["act"], choices=TAPS)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-sparse", action="store_true", help="skip the sparse network of the same name")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args: argparse.Namespace = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)
    print(f"{timing.machine(device)}; batch {args.batch_size}, {args.img_size}², {args.repeats} rounds\n")
    images = torch.randn(args.batch_size, 3, args.img_size, args.img_size, device=device)
    models = {f"{args.model}, dense": timm.create_model(args.model, num_classes=0).to(device)}
    if not args.no_sparse and args.model in fcmae.list_models():
        models[f"{args.model}, sparse, mask 0.6"] = fcmae.create_model(args.model, img_size=args.img_size).to(device)
    print("| network | tap | forward ms | with analysis ms | × (range over rounds) |\n|---|---|---|---|---|")
    for name, model in models.items():
        for tap in args.taps:
            check_distances(model, images[:2], tap)
        seconds = timing.alternate(paths_of(model, images, args.taps), args.repeats)
        middle = {path: 1e3 * sorted(runs)[len(runs) // 2] for path, runs in seconds.items()}
        for tap in args.taps:
            cost, low, high = timing.ratio(seconds, tap, "forward alone")
            print(
                f"| {name} | {tap} | {middle['forward alone']:.0f} | {middle[tap]:.0f} "
                f"| {cost:.2f} ({low:.2f} … {high:.2f}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()

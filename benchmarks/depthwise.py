"""The depthwise convolution alone: forward, and its gradients to the input and the weight, backend against backend.

python -m benchmarks.depthwise --model convnextv2_atto --batch-size 16
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import timing
from fcmae.models.config import ModelConfig
from fcmae.models.fcmae import count_visible, random_visible
from fcmae.models.sizes import SIZES
from fcmae.sparse.backends.registry import resolve_backend
from fcmae.sparse.sites import ActiveSites


def main() -> None:
    """Command line."""
    parser = timing.batch_options(__doc__)
    parser.add_argument("--backends", nargs="+", default=["torch", "numba"], help="the first is the baseline")
    parser.add_argument("--model", default="convnextv2_atto", choices=SIZES)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    grid, dims = args.img_size // ModelConfig(args.model).patch_size, SIZES[args.model].dims
    kept = count_visible(grid * grid, args.mask_ratio)
    sites = ActiveSites(random_visible(args.batch_size, (grid, grid), kept))
    print(timing.machine())
    print(
        f"depthwise 7×7 of {args.model}, batch {args.batch_size}, {args.img_size}², "
        f"{kept} of {grid * grid} patches visible, float32"
    )
    for side, channels in zip((8, 4, 2, 1)[-len(dims) :], dims, strict=True):
        x, dy = torch.randn(2, sites.num_sites(side), channels)
        tensors = [x.requires_grad_(), torch.randn(channels, 1, 7, 7).requires_grad_(), torch.zeros(channels)]
        paths: dict[str, Callable[[], tuple[Tensor, ...]]] = {}
        for name in args.backends:
            conv = functools.partial(resolve_backend(name).depthwise_conv, *tensors, sites, side)
            backward = functools.partial(torch.autograd.grad, conv(), tensors[:2], dy, retain_graph=True)
            paths |= {f"forward, {name}": lambda conv=conv: (conv().detach(),), f"backward, {name}": backward}
        for name, run in paths.items():
            expected = paths[f"{name.partition(',')[0]}, {args.backends[0]}"]()
            for got, want in zip(run(), expected, strict=True):
                if not (got - want).norm() < 1e-4 * want.norm():
                    raise SystemExit(f"not timed: {name} is wrong at s = {side}")
        print(f"\ns = {side}, {channels} channels")
        print(timing.table(timing.alternate(paths, args.repeats), args.batch_size, f"backward, {args.backends[0]}"))


if __name__ == "__main__":
    main()

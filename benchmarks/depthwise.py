"""The depthwise convolution alone: forward, and its gradients to the input and the weight, in every way there is.

python -m benchmarks.depthwise --model convnextv2_atto --batch-size 16
"""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import timing
from fcmae.models.fcmae import count_visible, random_visible
from fcmae.models.sizes import SIZES
from fcmae.sparse import ActiveSites
from fcmae.sparse import depthwise as dw
from fcmae.sparse.compiled import loops_for

PATCH = 32
FORWARD, BACKWARD = "forward, by grid", "backward, library"  # what the others are compared with


def main() -> None:
    """Command line."""
    parser = timing.batch_options(__doc__)
    parser.add_argument("--model", default="convnextv2_atto", choices=SIZES)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    grid = args.img_size // PATCH
    kept = count_visible(grid * grid, args.mask_ratio)
    sites = ActiveSites(random_visible(args.batch_size, (grid, grid), kept))
    print(timing.machine())
    print(
        f"depthwise 7×7 of {args.model}, batch {args.batch_size}, {args.img_size}², "
        f"{kept} of {grid * grid} patches visible, float32"
    )
    for side, channels in zip((8, 4, 2, 1), SIZES[args.model].dims, strict=True):
        paths = ways(sites, side, channels)
        for name, run in paths.items():
            for got, expected in zip(run(), paths[FORWARD if name.startswith("forward") else BACKWARD](), strict=True):
                if not (got - expected).norm() < 1e-4 * expected.norm():
                    raise SystemExit(f"not timed: {name} is wrong at s = {side}")
        print(f"\ns = {side}, {channels} channels")
        print(timing.table(timing.alternate(paths, args.repeats), args.batch_size, BACKWARD))


def ways(sites: ActiveSites, side: int, channels: int) -> dict[str, Callable[[], tuple[Tensor, ...]]]:
    """Functions that give the convolution, or its gradients to the input and the weight."""
    x, dy = torch.randn(2, sites.num_sites(side), channels)
    weight = torch.randn(channels, 1, 7, 7)
    turned = weight.flip(2, 3)  # the gradient to x is the convolution of dy with it
    grid = sites.grid_index(side), sites.grid_shape(side)
    windows = sites.patch_window_index(side, 3), sites.raster_of_z(side)
    paths: dict[str, Callable[[], tuple[Tensor, ...]]] = {
        FORWARD: lambda: (dw._convolve_on_grid(x, weight, None, *grid),),
        BACKWARD: lambda: (
            dw._convolve_on_grid(dy, turned, None, *grid),
            dw._wgrad_by_library(x, dy, weight, *grid),
        ),
    }
    if side > 1:  # else a 7×7 halo for each single site: not used
        gathered = sites.window_index(side, 3), sites.raster_index(side)
        paths["forward, by patch"] = lambda: (dw._convolve_by_patch(x, weight, None, *windows),)
        paths["backward, by patch"] = lambda: (
            dw._convolve_by_patch(dy, turned, None, *windows),
            dw._wgrad_by_patch(x, dy, weight, *gathered),
        )
    if side <= 2:  # else kernels as large as the image: not used
        paths["backward, by image"] = lambda: (
            dw._convolve_on_grid(dy, turned, None, *grid),
            dw._wgrad_by_image(x, dy, weight, *grid),
        )
    if loops := loops_for(x):
        paths["forward, loops"] = lambda: (loops.convolve(x, weight, None, *windows),)
        paths["backward, loops"] = lambda: loops.convolve_grad(x, dy, weight, *windows)[:2]
    return paths


if __name__ == "__main__":
    main()

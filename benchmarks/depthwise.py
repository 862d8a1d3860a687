"""The depthwise convolution alone: forward, and its gradient to the weight, each in every way there is.

python -m benchmarks.depthwise --model convnextv2_atto --batch-size 16
"""

import functools

import torch

from benchmarks import timing
from fcmae.models.fcmae import count_visible, random_visible
from fcmae.models.sizes import SIZES
from fcmae.sparse import ActiveSites
from fcmae.sparse import depthwise as dw
from fcmae.sparse.compiled import loops_for

PATCH = 32


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
        x, dy = torch.randn(2, sites.num_sites(side), channels)
        weight = torch.randn(channels, 1, 7, 7)
        index, shape = sites.grid_index(side), sites.grid_shape(side)
        window, raster = sites.window_index(side, 3), sites.raster_index(side)
        paths = {
            "wgrad, library": lambda: dw._wgrad_by_library(x, dy, weight, index, shape),  # noqa: B023
            "wgrad, by patch": lambda: dw._wgrad_by_patch(x, dy, weight, window, raster),  # noqa: B023
            "wgrad, by image": lambda: dw._wgrad_by_image(x, dy, weight, index, shape),  # noqa: B023
            "forward, by grid": lambda: dw._convolve_on_grid(x, weight, None, index, shape),  # noqa: B023
        }
        windows = sites.patch_window_index(side, 3), sites.raster_of_z(side)
        if loops := loops_for(x):
            paths["wgrad, loops"] = lambda: loops.wgrad(x, dy, weight, *windows)[0]  # noqa: B023
            paths["forward, loops"] = functools.partial(loops.convolve, x, weight, None, *windows)
        if side > 1:
            paths["forward, by patch"] = functools.partial(dw._convolve_by_patch, x, weight, None, *windows)
        if side == 1:
            del paths["wgrad, by patch"]  # a 7×7 halo for each single site: not used there
        if side > 2:
            del paths["wgrad, by image"]  # kernels as large as the image: not used there
        for name, run in paths.items():
            expected = paths["forward, by grid" if name.startswith("forward") else "wgrad, library"]()
            if not (run() - expected).norm() < 1e-4 * expected.norm():
                raise SystemExit(f"not timed: {name} is wrong at s = {side}")
        print(f"\ns = {side}, {channels} channels")
        print(timing.table(timing.alternate(paths, args.repeats), args.batch_size, "wgrad, library"))


if __name__ == "__main__":
    main()

"""Random crops of a large tiled scene, in one process: crops per second of CPU time, and memory.

    python -m benchmarks.scenes                                   # 30,000², 512² tiles, 3 × 16 bits, deflate
    python -m benchmarks.scenes --predictor --channels 13 --planar

The scene's tiles hold noise, 64 of them different, which the directory repeats: the file is small, and reading it
costs what reading the whole scene would. CPU time counts, so other work on the machine matters less. Memory is that of
a process that only reads: a data loading process shares most of its own with the one that trains.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

DIFFERENT = 64


def write_scene(path: Path, args: argparse.Namespace) -> None:
    """A tiled TIFF of ``args.side``² pixels."""
    import numpy as np
    import tifffile

    across = -(-args.side // args.tile)
    planes = args.channels if args.planar else 1
    count = across * across * planes
    rng = np.random.default_rng(0)

    def tiles() -> Iterator[np.ndarray | None]:
        for number in range(count):
            shape = (args.tile, args.tile) if args.planar else (args.tile, args.tile, args.channels)
            yield rng.integers(0, 2**args.bits, shape, dtype=np.uint16) if number < DIFFERENT else None

    shape = (args.side, args.side) if args.planar else (args.side, args.side, args.channels)
    tifffile.imwrite(
        path, tiles(), shape=(planes, *shape) if args.planar else shape, dtype=np.uint16, tile=(args.tile, args.tile),
        photometric="minisblack" if args.channels != 3 else "rgb", planarconfig="separate" if args.planar else "contig",
        compression=None if args.compression == "none" else args.compression, predictor=args.predictor, metadata=None,
        bigtiff=False, maxworkers=1,
    )  # fmt: skip
    with tifffile.TiffFile(path, mode="r+") as tiff:
        page = tiff.pages.first
        for tag in (page.tags["TileOffsets"], page.tags["TileByteCounts"]):
            tag.overwrite([tag.value[number % DIFFERENT] for number in range(count)])


def megabytes() -> tuple[float, float]:
    """The memory of this process, and how much of it is its own: not that of libraries' files."""
    memory = psutil.Process().memory_full_info()
    return memory.rss / 1e6, memory.uss / 1e6


def read(args: argparse.Namespace) -> None:
    """Draw crops and print what they cost; in a process of its own."""
    import random

    import torch

    from fcmae.data.crops import resized_crop
    from fcmae.data.images import open_image
    from fcmae.data.pixel_reading import PixelReading

    torch.set_num_threads(1)
    draw, reading, size = random.Random(0), PixelReading(args.channels, value_range=(0, 2**args.bits)), args.img_size

    def crop() -> None:
        file = open_image(args.scene, reading)
        top, left = draw.randrange(file.height - size), draw.randrange(file.width - size)
        assert resized_crop(file, (top, left, size, size), (size, size)).shape == (args.channels, size, size)

    before = megabytes()
    crop()
    peak, rates = before, list[float]()
    for _ in range(args.repeats):
        start = time.process_time()
        for _ in range(args.crops):
            crop()
        rates.append(args.crops / (time.process_time() - start))
        peak = max(peak, megabytes())
    print(
        f"{max(rates):.0f} crops of {size}² per second of CPU time ({min(rates):.0f} … {max(rates):.0f}); "
        f"{peak[0]:.0f} MB resident, {before[0]:.0f} MB of it before the first crop; "
        f"{peak[1]:.0f} MB private, {before[1]:.0f} MB before"
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=30000)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--bits", type=int, default=16)
    parser.add_argument("--planar", action="store_true", help="each channel has its own tiles")
    parser.add_argument("--compression", default="zlib", help="none, zlib, lzw, zstd")
    parser.add_argument("--predictor", action="store_true")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--crops", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scene", help="read this file instead, in this process")
    args = parser.parse_args()
    if args.scene:
        read(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_scene(Path(folder) / "scene.tif", args)
        command = [sys.executable, "-m", "benchmarks.scenes", *sys.argv[1:], "--scene", f"{folder}/scene.tif"]
        sys.exit(subprocess.run(command).returncode)


if __name__ == "__main__":
    main()

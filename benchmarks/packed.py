"""Images per second of a core: originals in a folder, against the shards that ``fcmae pack`` makes of them.

    python -m benchmarks.packed                        # 1600×1200 JPEGs made from the bundled photos, short side 320
    python -m benchmarks.packed --short-side 256

Both are read as in pretraining: files opened, cropped at random, flipped, collated. Seconds are those of the processor,
so that other work on the machine counts little. Status 1 if shards are less than three times as fast.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import timing
from benchmarks.input_pipeline import make_jpegs
from fcmae.config import DataConfig
from fcmae.data.samples import PretrainDataset, collate
from fcmae.data.sources.files import collect
from fcmae.models import ModelConfig
from fcmae.pack import pack

WANTED = 3.0


def reading(source: str, img_size: int) -> tuple[Callable[[], object], int]:
    """A function that reads a batch of every image, and how many these are."""
    images = collect(source)
    dataset = PretrainDataset(images, DataConfig(path=source), ModelConfig("convnextv2_atto", img_size), 0.6, seed=0)
    epochs = iter(range(10**6))

    def read() -> None:
        epoch = next(epochs)
        collate([dataset[epoch, place] for place in range(len(images))])

    return read, len(images)


def main() -> int:
    """Command line."""
    parser = timing.options(__doc__ or "", repeats=9)
    parser.add_argument("--width", type=int, default=1600)
    parser.add_argument("--height", type=int, default=1200)
    parser.add_argument("--quality", type=int, default=90, help="of the originals")
    parser.add_argument("--short-side", type=int, default=320)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_jpegs(folder, (args.width, args.height), args.quality)
        result = pack(str(folder / "all"), str(folder / "shards"), short_side=args.short_side, num_workers=0)
        shards = str(folder / "shards" / "*.tar")
        (originals, count), (packed, packed_count) = (
            reading(str(folder / "all"), args.img_size),
            reading(shards, args.img_size),
        )
        if count != packed_count:
            sys.exit(f"{packed_count} of {count} images are in the shards")
        seconds = timing.alternate({"originals": originals, "packed": packed}, args.repeats, time.process_time)
    print(
        f"{count} images of {args.width}×{args.height}: {result.source_bytes / 1e6:.1f} MB, packed to a short side of"
    )
    print(f"{args.short_side}: {result.total_bytes / 1e6:.1f} MB. Processor time, one thread\n")
    print(timing.table(seconds, count, "originals"))
    middle, low, high = timing.ratio(seconds, "originals", "packed")
    print(f"\npacked / originals: {middle:.2f} ({low:.2f} … {high:.2f}); at least {WANTED:g} is wanted")
    return 0 if middle >= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())

"""Images per second and core, from files to a batch of random crops: fcmae against torchvision's usual chain.

    python -m benchmarks.input_pipeline                       # 500×375 JPEGs made from the bundled photos
    python -m benchmarks.input_pipeline --width 4000 --height 3000
    python -m benchmarks.input_pipeline --crops-per-image 1 2 4      # --data.crops_per_image

torchvision's chain is ImageFolder with RandomResizedCrop, RandomHorizontalFlip, ToTensor and Normalize. fcmae returns
uint8, which the device normalizes. Seconds are those of the processor, so that other work on the machine counts little.
"""

import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch.utils.data import default_collate
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks import timing
from fcmae.config import IMAGENET_MEAN, IMAGENET_STD, DataConfig
from fcmae.data.folder import embedded_photographs, image_files
from fcmae.data.loader import make_loader
from fcmae.data.samples import PretrainDataset
from fcmae.data.stream import SampleStream
from fcmae.models import ModelConfig


def make_jpegs(folder: Path, size: tuple[int, int], quality: int) -> None:
    """Write the bundled photos, cropped and resized to one size."""
    (folder / "all").mkdir()
    for number, path in enumerate(embedded_photographs()):
        with Image.open(path) as image:
            ImageOps.fit(image.convert("RGB"), size).save(folder / "all" / f"{number}.jpg", quality=quality)


def main() -> None:
    """Command line."""
    parser = timing.options(__doc__, repeats=9)
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--height", type=int, default=375)
    parser.add_argument("--quality", type=int, default=90)
    parser.add_argument("--crops-per-image", type=int, nargs="+", default=[1])
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_jpegs(folder, (args.width, args.height), args.quality)
        chain = [
            transforms.RandomResizedCrop(args.img_size, scale=(0.2, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
        theirs = ImageFolder(str(folder), transforms.Compose(chain))
        steps = math.lcm(*args.crops_per_image)

        def run_theirs() -> None:
            for _ in range(steps):
                default_collate([theirs[index] for index in range(len(theirs))])

        paths = {"torchvision": run_theirs}
        for crops in args.crops_per_image:
            data = DataConfig(num_workers=0, crops_per_image=crops)
            ours = PretrainDataset(image_files(folder), data, ModelConfig(img_size=args.img_size), 0.6, seed=0)
            paths["fcmae" if crops == 1 else f"fcmae, {crops} crops"] = batches(ours, steps)
        seconds = timing.alternate(paths, args.repeats, time.process_time)
        kilobytes = sum(path.stat().st_size for path in ours.paths) / len(ours.paths) / 1e3
        print(f"{timing.machine()}; {args.width}×{args.height} JPEGs of {kilobytes:.0f} kB → {args.img_size}²")
        print(timing.table(seconds, len(ours.paths) * steps, "torchvision"))


def batches(dataset: PretrainDataset, steps: int) -> Callable[[], None]:
    """A function that loads so many batches, each of all images, and goes on with the next ones when called again."""
    images, starts = len(dataset.paths), iter(range(0, 10**9, steps))

    def run() -> None:
        start = next(starts)
        stream = SampleStream(
            len(dataset), batch_size=images, start_step=start, total_steps=start + steps, num_images=images,
            crops_per_image=dataset.data.crops_per_image,
        )  # fmt: skip
        assert all(len(batch.image) == images for batch in make_loader(dataset, stream, pin_memory=False))

    return run


if __name__ == "__main__":
    main()

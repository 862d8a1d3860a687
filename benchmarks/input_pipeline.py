"""Images per second on one core, from files to a batch of random crops: fcmae against torchvision's usual chain.

    python -m benchmarks.input_pipeline                       # 500×375 JPEGs made from the bundled photos
    python -m benchmarks.input_pipeline --width 4000 --height 3000

torchvision's chain is ImageFolder with RandomResizedCrop, RandomHorizontalFlip, ToTensor and Normalize. fcmae returns
uint8, which the device normalizes.
"""

import tempfile
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch.utils.data import default_collate
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks import timing
from fcmae.config import IMAGENET_MEAN, IMAGENET_STD, DataConfig
from fcmae.data.folder import embedded_photographs, image_files
from fcmae.data.samples import PretrainDataset, collate
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
        ours = PretrainDataset(image_files(folder), DataConfig(), ModelConfig(img_size=args.img_size), 0.6, seed=0)
        epochs = iter(range(10**9))

        def run_ours() -> None:
            epoch = next(epochs)
            collate([ours[(epoch, index)] for index in range(len(ours))])

        def run_theirs() -> None:
            default_collate([theirs[index] for index in range(len(theirs))])

        seconds = timing.alternate({"torchvision": run_theirs, "fcmae": run_ours}, args.repeats)
        kilobytes = sum(path.stat().st_size for path in ours.paths) / len(ours) / 1e3
        print(f"{timing.machine()}; {args.width}×{args.height} JPEGs of {kilobytes:.0f} kB → {args.img_size}²")
        print(timing.table(seconds, len(ours), "torchvision"))


if __name__ == "__main__":
    main()

"""A real run: ``python -m fcmae.pretrain`` on JPEGs, from decoding to checkpoints. Images/s as its metrics say.

python -m benchmarks.gpu.training --images 4096 --epochs 12
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.gpu import common
from fcmae.config import DataConfig
from fcmae.data.folder import embedded_photographs

SIZE, QUALITY = (500, 375), 90  # ImageNet's usual size
CROPS = 4


def make_jpegs(folder: Path, count: int) -> None:
    """``count`` different crops of the bundled photos."""
    folder.mkdir()
    photos = [Image.open(path).convert("RGB") for path in embedded_photographs()]

    def write(number: int) -> None:
        photo, draw = photos[number % len(photos)], random.Random(number)
        share = draw.uniform(0.5, 1)
        width, height = (max(int(side * share), 1) for side in photo.size)
        left, top = draw.randint(0, photo.width - width), draw.randint(0, photo.height - height)
        crop = photo.resize(SIZE, box=(left, top, left + width, top + height))
        crop.save(folder / f"{number}.jpg", quality=QUALITY)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write, range(count)))


def run_once(args: Any, images: Path, output: Path, more: list[str], end: float) -> tuple[float, list[dict[str, Any]]]:
    """Pretrain until ``end`` at most; seconds to the first line of metrics, and all lines."""
    options = {
        "config": "pretrain", "model.name": args.model, "model.img_size": 64 if args.small else args.img_size,
        "data.path": images, "output": output, "device": args.device, "train.epochs": args.epochs,
        "train.effective_batch": args.batch_size, "train.batch_size": args.batch_size, "train.warmup_epochs": 0,
        "log.every": 1 if args.small else 4, "log.pictures_every": 0, "log.checkpoint_every": args.epochs,
    }  # fmt: skip
    given = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "fcmae.pretrain", *given, *more]
    # a cache of its own: what earlier stages compiled would hide what a first start takes
    environment = {**os.environ, "TRITON_CACHE_DIR": str(output.with_suffix(".triton"))}
    begin, first = time.perf_counter(), None
    metrics = output / "metrics.jsonl"
    said = output.with_suffix(".said")
    with (
        open(said, "w") as stderr,
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, env=environment) as process,
    ):
        while process.poll() is None and time.perf_counter() < end:
            if first is None and metrics.is_file() and metrics.stat().st_size:
                first = time.perf_counter() - begin
            time.sleep(0.1)
        process.terminate()  # no more time: the run saves and ends
    lines = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.is_file() else []
    lines = [line for line in lines if "images_per_second" in line]
    if not lines:
        raise RuntimeError(f"no line of metrics; the run said: {said.read_text()[-100:]}")
    return time.perf_counter() - begin if first is None else first, lines


def main() -> int:
    """Command line."""
    parser = common.options(__doc__)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=256)
    args = common.parse(parser)
    if args.small:
        args.images, args.epochs, args.batch_size = 32, 4, 8
    ways: list[list[str]] = [[]]
    if "crops_per_image" in {field.name for field in fields(DataConfig)}:
        ways.insert(0, ["--data.crops_per_image", str(CROPS)])
    print(f"{args.model}, {args.images} JPEGs of {SIZE[0]}×{SIZE[1]}, batch {args.batch_size}, {os.cpu_count()} cores.")
    common.print_header("options", "images/s (last half)", "best", "to the first line, s", "steps", "loss", "last line")
    failed = False
    with tempfile.TemporaryDirectory() as name:
        make_jpegs(Path(name) / "images", args.images)
        for number, more in enumerate(ways):
            what = " ".join(more) or "as it comes"
            now = time.perf_counter()
            end = now + (args.started + args.limit - now) / (len(ways) - number)
            try:
                first, lines = run_once(args, Path(name) / "images", Path(name) / str(number), more, end)
            except Exception as error:
                failed = True
                common.print_row(what, f"**failed**: {common.why(error)}", *["–"] * 5)
                continue
            rates = [line["images_per_second"] for line in lines]
            shown = {key: value for key, value in lines[-1].items() if "wait" in key}
            common.print_row(
                what, f"{statistics.median(rates[len(rates) // 2 :]):,.0f}", f"{max(rates):,.0f}", f"{first:.0f}",
                lines[-1]["step"], f"{lines[0]['loss']:.3f} → {lines[-1]['loss']:.3f}", shown or "–",
            )  # fmt: skip
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

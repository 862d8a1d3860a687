"""One run over a folder of mutated image files: it must not end early, and must name each unreadable file once.

    python -m benchmarks.mutated_files --count 1000 [--kinds tif jp2] [--seed 0]

Of each accepted format so many files are cut off, shortened or changed at random; beside them lie those they were made
from. The run reads each once, in two data loading processes. Afterwards each file is read again: those that cannot be
opened must have been named, those that can be decoded as a whole must not.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks.faults import end_with
from fcmae.data.images import UnreadableImageError, open_image
from fcmae.data.pixel_reading import PixelReading
from tests.fcmae.data.reading.fuzz import SEEDS, mutated

MEMORY = 2e9  # bytes of one process
NAMED = re.compile(r"skipped, cannot be read: (.+?): ")
PROGRESS = re.compile(r"step \d+ of \d+, ")
SMALL = [
    *("--model.img_size", "32", "--model.stem_stride", "1", "--model.decoder_dim", "16", "--train.batch_size", "16"),
    *("--train.epochs", "1", "--data.num_workers", "2", "--log.every", "20", "--log.pictures_every", "0"),
]


def write_files(folder: Path, count: int, kinds: list[str], seed: int) -> None:
    """``count`` mutated files of each kind, and what they were made from."""
    for kind in kinds:
        (folder / kind).mkdir(parents=True)
        seeds, draw = SEEDS[kind](), random.Random(f"{seed} {kind}")
        for number, data in enumerate(seeds):
            (folder / kind / f"whole{number}.{kind}").write_bytes(data)
        for number in range(count):
            (folder / kind / f"{number:05}.{kind}").write_bytes(mutated(seeds, draw))


def train(images: Path, run: Path, log: Path) -> tuple[int, float]:
    """Exit status of a run over the images, and the memory of the largest of its processes in bytes."""
    command = [sys.executable, "-m", "fcmae.pretrain", *SMALL, "--data.path", str(images), "--output", str(run)]
    with log.open("w") as opened:
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdout=opened, stderr=opened, env=env)
        largest = largest_memory(process.pid, lambda: process.poll() is not None)
    return process.returncode, largest


def largest_memory(pid: int, has_ended: Callable[[], bool]) -> float:
    """Wait for a process; returns the memory of the largest of it and its children in bytes."""
    largest = 0.0
    while not has_ended():
        with suppress(psutil.Error):
            main = psutil.Process(pid)
            largest = max(largest, *(float(one.memory_info().rss) for one in [main, *main.children()]))
        time.sleep(0.1)
    return largest


def faults(images: Path, run: Path, log: Path) -> list[str]:
    """What is wrong with the files that a run named."""
    said = log.read_text(errors="replace")
    named, found = Counter(NAMED.findall(said)), list[str]()
    found += [f"{name} is named {count} times" for name, count in named.items() if count > 1]
    counted = [json.loads(line) for line in (run / "metrics.jsonl").open()][-1]["unreadable_images"]
    if counted != len(named):
        found.append(f"{len(named)} files are named, {counted} counted")
    reading = PixelReading(3, value_range=(0, 65535))
    for file in sorted(images.glob("*/*")):
        try:
            opened = open_image(file, reading)
        except UnreadableImageError as error:
            if str(file) not in named:
                found.append(f"not named: {error}")
            continue
        with suppress(UnreadableImageError):
            for plane in range(opened.planes):
                opened.crop((0, 0, opened.height, opened.width), plane=plane)
            if str(file) in named:
                found.append(f"named, but can be read: {file}")
    lines = (line for line in said.splitlines() if "skipped, cannot be read" not in line)
    others = [line for line in lines if not PROGRESS.match(line)]  # one every few seconds, of a slow machine many
    if len(others) > 20:
        found.append(f"{len(others)} lines that name no file: {others[10:14]}")
    return found


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--kinds", nargs="+", default=list(SEEDS), choices=list(SEEDS))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mutated-"))
    images, run, log, start = folder / "images", folder / "run", folder / "log", time.monotonic()
    write_files(images, args.count, args.kinds, args.seed)
    status, memory = train(images, run, log)
    wrong = faults(images, run, log) if status == 0 else [f"status {status}: {log.read_text()[-2000:]}"]
    if memory > MEMORY:
        wrong.append(f"a process took {memory / 1e6:.0f} MB")
    named = len(NAMED.findall(log.read_text(errors="replace")))
    print(
        f"{args.count} mutated files of each of {len(args.kinds)} formats in one run: {named} named, largest process "
        f"{memory / 1e6:.0f} MB, {time.monotonic() - start:.0f} s, {len(wrong)} wrong"
    )
    end_with(wrong, folder)


if __name__ == "__main__":
    main()

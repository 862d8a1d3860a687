"""Images in archives: the time of the index, of a start with it, its memory, and reading next to a folder's files.

    python -m benchmarks.sources                   # 1,000,000 members in 100 tars: 1 GB of temporary files
    python -m benchmarks.sources --members 100000 --shards 10

Each part runs in a process of its own. Reading is in random order, of files that are in the system's cache; the bytes
are compared before anything is timed.
"""

import argparse
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from random import Random

from benchmarks import timing
from benchmarks.input_pipeline import make_jpegs
from fcmae.data.images import open_image
from fcmae.data.sources.digest import digest
from fcmae.data.sources.files import collect
from fcmae.data.sources.image_set import ImageSet

TINY = b"\x89PNG\r\n\x1a\n" + bytes(60)


def make_shards(folder: Path, members: int, shards: int) -> str:
    """Tars of members of 68 bytes in 1,000 class folders; returns ``--data.path`` of them all."""
    body = TINY + bytes(-len(TINY) % tarfile.BLOCKSIZE)
    for shard in range(shards):
        with (folder / f"s-{shard:06}.tar").open("wb") as file:
            for place in range(shard, members, shards):
                about = tarfile.TarInfo(f"class{place % 1000:03}/{place}.png")
                about.size = len(TINY)
                file.write(about.tobuf(tarfile.USTAR_FORMAT) + body)
            file.write(bytes(2 * tarfile.BLOCKSIZE))
    return f"{folder}/s-{{{0:06}..{shards - 1:06}}}.tar"


def start(source: str, run: Path, expected: int) -> None:
    """What a training process does with a set before its first step, timed; prints a row."""
    before, clock, processor = _memory(), time.perf_counter(), time.process_time()
    images = collect(source, leave_out=run)
    digest(images)
    assert images[-1].read_bytes() == TINY
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    assert len(images) == expected
    print(f"{clock:8.2f} s {processor:8.2f} s of the processor {_memory() - before:8.0f} MB")


def _memory() -> float:
    """Resident memory of this process in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1e3


def compare_reading(folder: Path, repeats: int, copies: int) -> None:
    """Bytes and decoded images from a folder and from four tars of the same files."""
    (folder / "set").mkdir()
    make_jpegs(folder / "set", (500, 375), 90)
    originals = sorted((folder / "set/all").iterdir())
    for number in range(copies):
        for file in originals:
            (folder / f"set/all/{number}-{file.name}").write_bytes(file.read_bytes())
    files = sorted((folder / "set/all").iterdir())
    for shard in range(4):
        with tarfile.open(folder / f"r-{shard}.tar", "w") as tar:
            for file in files[shard::4]:
                tar.add(file, f"all/{file.name}")
    sets = {"folder": collect(folder / "set"), "4 tars": collect(f"{folder}/r-{{0..3}}.tar", leave_out=folder / "run")}
    assert list(sets["folder"].names) == list(sets["4 tars"].names)
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*sets.values(), strict=True))
    order = Random(0).sample(range(len(files)), len(files))

    def reads(images: ImageSet) -> None:
        for place in order:
            images[place].read_bytes()

    def decodes(images: ImageSet) -> None:
        for place in order[:200]:
            open_image(images[place]).decode()

    for what, run, count in (("read", reads, len(order)), ("read and decoded", decodes, 200)):
        seconds = timing.alternate(
            {name: lambda images=images, run=run: run(images) for name, images in sets.items()},
            repeats,
            time.process_time,
        )
        print(f"\n{what}, {len(files)} JPEGs\n{timing.table(seconds, count, 'folder')}")


def main() -> None:
    """Command line."""
    parser = timing.options(__doc__, repeats=5)
    parser.add_argument("--members", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--copies", type=int, default=100, help="files for reading: 17 for each")
    parser.add_argument("--start", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.start:
        start(args.start[0], Path(args.start[1]), args.members)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = make_shards(folder, args.members, args.shards)
        print(f"{timing.machine()}; {args.members:,} members in {args.shards} tars")
        for what in ("index", "start", "start"):
            print(f"{what:6}", end=" ", flush=True)
            command = [sys.executable, "-m", "benchmarks.sources", "--members", str(args.members)]
            subprocess.run([*command, "--start", source, str(folder / "run")], check=True)
        size = sum(file.stat().st_size for file in (folder / ".fcmae").glob("*.index"))
        print(f"the index is a file of {size / 1e6:.0f} MB")
        compare_reading(folder, args.repeats, args.copies)


if __name__ == "__main__":
    main()

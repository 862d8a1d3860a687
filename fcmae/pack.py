"""Shards made for training, as a command (``fcmae pack SOURCE DST``) and as a function.

from fcmae.pack import pack

packed = pack("images/", "shards/", short_side=320)
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fcmae.cli.command import end, exit_status, say
from fcmae.cli.keywords import keyword_function
from fcmae.cli.parser import parse
from fcmae.config import check_least
from fcmae.data.pixel_reading import MAX_PIXELS
from fcmae.data.sources.source import check_there
from fcmae.errors import UserError

logger = logging.getLogger("fcmae")

PROG = "python -m fcmae.pack"
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


@dataclass(frozen=True)
class PackConfig:
    """Write images into tars that load fast (WebDataset's layout): smaller, re-encoded, and checked.

    8-bit gray and color images become JPEG, or --format; with opacity PNG instead of JPEG. Deep images, several bands,
    stacks and images with pixels without data become TIFFs that keep their values. Repeat the command to go on after it
    was stopped: the shards are the same as without a stop. Labels of class folders stay, as .cls and in the path.
    """

    source: str
    """Images, as --data.path of fcmae pretrain takes them: a folder, a glob in quotes, or a list of paths."""
    dst: str
    """Folder to write, new or empty."""
    short_side: int = 320
    """Largest short side in pixels; smaller images keep their size."""
    quality: int = 92
    """Of JPEG and WebP, 1 to 100."""
    format: Literal["jpeg", "png", "webp"] = "jpeg"
    """Of 8-bit gray and color images. Those that are small enough and of this format keep their bytes."""
    shard_size: str = "256MB"
    """Largest shard: bytes, or with kB, MB or GB."""
    nodata: float | None = None
    """Value of pixels without data, which are not mixed into others; NaN and a TIFF's tag always count."""
    max_pixels: int = MAX_PIXELS
    """Largest image to decode, in pixels; larger ones are left out like damaged ones."""
    num_workers: int = 4
    """Processes that encode; 0: the main process does. Does not change the shards."""

    def __post_init__(self) -> None:
        check_least(self, short_side=1, quality=1, max_pixels=1, num_workers=0)
        if self.quality > 100:
            raise ValueError(f"quality must be at most 100, got {self.quality}")
        shard_bytes(self.shard_size)


def shard_bytes(text: str) -> int:
    """``256MB`` → 256,000,000; ValueError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", str(text).strip().lower())
    size = 0 if found is None else int(float(found[1]) * UNITS[found[2]])
    if size < 1:
        raise ValueError(f"shard_size must be a number of bytes, such as 256MB, got {text!r}")
    return size


@dataclass(frozen=True)
class PackResult:
    """What was written."""

    images: int
    shards: tuple[Path, ...]
    total_bytes: int
    """Of the shards."""
    source_bytes: int
    damaged: tuple[str, ...] = field(repr=False)
    """Path and reason of each image that was left out; DST/damaged.txt holds the same."""
    images_per_second_before: float
    """Random crops per second of one core from the source, measured on a sample."""
    images_per_second_after: float
    """And from the shards."""


@keyword_function(PackConfig)
def pack(config: PackConfig) -> PackResult:
    """Write shards, or go on with shards that were begun.

    The settings are keywords, which :class:`PackConfig` explains; a whole ``PackConfig`` is accepted too.

    Raises:
        UserError: no images, none that can be read, or a DST with other contents.
    """
    check_there(config.source, "SOURCE")
    if not config.dst:
        raise UserError("DST is empty; give a folder")
    from fcmae.data.pixel_reading import PixelReading  # here, because these imports take seconds
    from fcmae.packing.encoding import Encoding
    from fcmae.packing.packing import pack_images

    folder = Path(config.dst)
    reading = PixelReading(nodata=config.nodata, stack="images", max_pixels=config.max_pixels)
    encoding = Encoding(config.short_side, config.format, config.quality)
    found = pack_images([config.source], folder, encoding, reading, shard_bytes(config.shard_size), config.num_workers)
    shards = [shard for shard in found.journal.shards if shard.images]
    return PackResult(
        images=sum(shard.images for shard in shards),
        shards=tuple(folder / shard.file for shard in shards),
        total_bytes=sum(shard.bytes for shard in shards),
        source_bytes=found.source_bytes,
        damaged=tuple(message for shard in found.journal.shards for _, message in shard.damaged),
        images_per_second_before=found.before,
        images_per_second_after=found.after,
    )


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run the command line; returns the exit status: 0, or 1 after an error."""

    def work() -> None:
        config = parse(PackConfig, argv, prog)
        try:
            found = pack(config)
        except KeyboardInterrupt:
            logger.info("%s: the same command goes on after the last complete shard", config.dst)
            raise
        _show(found, config)

    return exit_status(prog, work)


def _show(result: PackResult, config: PackConfig) -> None:
    damaged = f"; {len(result.damaged):,} left out: {Path(config.dst) / 'damaged.txt'}" if result.damaged else ""
    before, after = result.images_per_second_before, result.images_per_second_after
    say(
        f"{result.images:,} images in {len(result.shards):,} shards, {result.total_bytes / 1e6:,.1f} MB "
        f"({result.source_bytes / 1e6:,.1f} MB before){damaged}\n"
        f"images per second of a core: {before:.0f} before, {after:.0f} now ({after / before:.1f} times)\n"
        f"to train on them: --data.path '{Path(config.dst) / 'shard-*.tar'}'\n"
    )


if __name__ == "__main__":
    end(main())

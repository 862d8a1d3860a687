"""Shards made for training, as a command (``fcmae pack SOURCE DST``) and as a function.

from fcmae.pack import pack

packed = pack("images/", "shards/", short_side=320)
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fcmae.cli.command import end, exit_status, say
from fcmae.cli.keywords import keyword_function
from fcmae.cli.parser import parse
from fcmae.config import check_least
from fcmae.config.source import OwnPixelsConfig
from fcmae.data.sources.source import check_there
from fcmae.data.stores.access import bytes_of
from fcmae.errors import UserError
from fcmae.wording import counted

logger = logging.getLogger("fcmae")

PROG = "python -m fcmae.pack"


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
    num_workers: int = 4
    """Processes that encode; 0: the main process does. Does not change the shards."""
    data: OwnPixelsConfig = field(default_factory=OwnPixelsConfig)

    def __post_init__(self) -> None:
        check_least(self, short_side=1, quality=1, num_workers=0)
        if self.quality > 100:
            raise ValueError(f"quality must be at most 100, got {self.quality}")
        if bytes_of(self.shard_size, "shard_size") < 1:
            raise ValueError(f"shard_size must be above 0, got {self.shard_size}")


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
    from fcmae.packing.encoding import Encoding  # here, because these imports take seconds
    from fcmae.packing.packing import pack_images

    folder = Path(config.dst)
    reading = config.data.reading(stack="images")
    encoding = Encoding(config.short_side, config.format, config.quality)
    found = pack_images(
        [config.source], folder, encoding, reading, bytes_of(config.shard_size), config.num_workers, config.data.access
    )
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
    gained = f"images per second of a core: {before:.0f} before, {after:.0f} now ({after / before:.1f} times)\n"
    gained = gained if math.isfinite(after / before) else ""  # none of the sample could be read
    say(
        f"{counted(result.images, 'image')} in {counted(len(result.shards), 'shard')}, "
        f"{result.total_bytes / 1e6:,.1f} MB ({result.source_bytes / 1e6:,.1f} MB before){damaged}\n"
        f"{gained}"
        f"to train on them: --data.path '{Path(config.dst) / 'shard-*.tar'}'\n"
    )


if __name__ == "__main__":
    end(main())

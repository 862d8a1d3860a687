"""A set of images → a folder of shards; goes on where an earlier process ended."""

import contextlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from fcmae.data.folder import evenly_spaced
from fcmae.data.pixel_reading import PixelReading
from fcmae.data.sources.archives.images import CLASSES
from fcmae.data.sources.digest import difference, digest
from fcmae.data.sources.files import collect
from fcmae.data.sources.image_set import ImageSet
from fcmae.data.stores.access import Access
from fcmae.data.workers import mapped
from fcmae.errors import UserError, in_a_line
from fcmae.files import make_folder, write_text
from fcmae.packing.encoding import Encoding, Packed, PackedImages
from fcmae.packing.journal import DAMAGED, LOCK, Journal, open_folder
from fcmae.packing.names import changed_keys, class_of, classes_of, key_of
from fcmae.packing.shards import Members, Samples, write_shard
from fcmae.packing.speed import CROP, SAMPLED, crops_per_second, members_of
from fcmae.progress import tracked
from fcmae.wording import none_readable

logger = logging.getLogger("fcmae")

NAMED = 5


class Packing(NamedTuple):
    """What was made."""

    journal: Journal
    source_bytes: int
    before: float
    """Crops per second of a core, from the source."""
    after: float
    """And from the shards."""


def pack_images(
    sources: Sequence[str], folder: Path, encoding: Encoding, reading: PixelReading, shard_size: int, num_workers: int,
    access: Access,
) -> Packing:  # fmt: skip
    """Write the shards, or those that are missing.

    Args:
        sources: as ``--data.path`` takes them.
        folder: new or empty, or one that the same command has begun.
        encoding: how images are written.
        reading: the value of missing pixels, and the largest image.
        shard_size: bytes of a shard at most; one with a single image may be longer.
        num_workers: processes; they do not change a byte.
        access: how URLs and tables are read.

    Raises:
        UserError: no images, none that can be read, a folder with other contents, or another process writes to it.
    """
    open_folder(folder)  # before the images are looked for, which may take long
    images = collect(sources, leave_out=folder, flag="SOURCE", access=access)
    make_folder(folder)
    try:
        with FileLock(folder / LOCK, timeout=0):
            journal = _continued(open_folder(folder), folder, images, encoding, reading, shard_size)
            if not journal.complete:
                _write(journal, folder, images, encoding, reading, shard_size, num_workers)
    except Timeout:
        raise UserError(f"DST {folder}: another process is writing to it") from None
    shards = [folder / shard.file for shard in journal.shards if shard.images]
    side = min(CROP, encoding.short_side)
    return Packing(
        journal,
        images.total_bytes,
        crops_per_second([images[place] for place in evenly_spaced(range(len(images)), SAMPLED)], reading, side),
        crops_per_second(members_of(shards, SAMPLED), reading, side),
    )


def _continued(
    before: Journal | None,
    folder: Path,
    images: ImageSet,
    encoding: Encoding,
    reading: PixelReading,
    shard_size: int,
) -> Journal:
    """The journal to go on with; UserError if it is of other settings or images."""
    settings = asdict(encoding) | {
        "shard_size": shard_size,
        "data.nodata": reading.nodata,
        "data.stack": reading.stack,
        "data.level": reading.level,
        "data.slices": reading.slices,
        "data.dicom_window": reading.value_range is None,
        "data.max_pixels": reading.max_pixels,
    }
    now = Journal(settings, digest(images), len(images))
    if before is None:
        now.write(folder)
        return now
    if changed := [name for name, value in settings.items() if before.settings.get(name) != value]:
        was = ", ".join(f"--{name} {_typed(before.settings.get(name))}" for name in changed)
        raise UserError(f"DST {folder} was made with {was}; repeat that, or give another DST")
    found = difference(before.source, now.source, images)
    if found is not None and found[1]:
        raise UserError(f"DST {folder} was made of other images: {found[0]}; give another DST")
    before.drop_lost(folder)
    if before.shards:
        logger.info("%s: goes on after %d of %d images", folder, before.end, len(images))
    return before


def _typed(value: object) -> str:
    """As an option takes it: ``true``, ``null``."""
    return value if isinstance(value, str) else json.dumps(value)


def _write(
    journal: Journal,
    folder: Path,
    images: ImageSet,
    encoding: Encoding,
    reading: PixelReading,
    shard_size: int,
    num_workers: int,
) -> None:
    names = images.names
    labels = images.labels  # the source is shards itself
    classes = classes_of(names) if labels is None else []
    numbers = {name: number for number, name in enumerate(classes)}
    keys = changed_keys(names)
    if broken := [name for name in classes if "\n" in name or "\r" in name]:
        raise UserError(
            f"SOURCE: the name of the class {in_a_line(broken[0])} has a line break, which {CLASSES} cannot hold"
        )
    if classes:
        write_text(folder / CLASSES, "".join(f"{name}\n" for name in classes))

    def members(place: int, found: Packed) -> Members:
        name = names[place]
        key = keys.get(place) or key_of(name)
        text = str(numbers[class_of(name) or ""]) if classes else None if labels is None else labels[place]
        return [(key + found.ending, found.data), *([] if text is None else [(f"{key}.cls", text.encode())])]

    left_over = len(images) - journal.end
    found = mapped(PackedImages(images, reading, encoding, journal.end), num_workers)
    samples = Samples(tracked(found, left_over, "packed"), journal.end, members)
    with contextlib.closing(found):
        while (shard := write_shard(folder / f"shard-{len(journal.shards):06}.tar", samples, shard_size)) is not None:
            journal.shards.append(shard)
            journal.write(folder)
    damaged = [one for shard in journal.shards for one in shard.damaged]
    for _, message in damaged[:NAMED]:
        logger.warning("left out, cannot be read: %s", message)
    if not any(shard.images for shard in journal.shards):
        raise UserError(none_readable(len(images), damaged[0][1]))
    if damaged:
        write_text(folder / DAMAGED, "".join(f"{in_a_line(message)}\n" for _, message in damaged))
    journal.complete = True
    journal.write(folder)

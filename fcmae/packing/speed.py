"""How fast images load: crops per second of one core, as in training."""

import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

from fcmae.data.crops import resized_crop
from fcmae.data.draws import random_crop
from fcmae.data.endings import EXTENSIONS
from fcmae.data.images import UnreadableImageError, open_all_channels
from fcmae.data.pixel_reading import PixelReading
from fcmae.data.stored import ImageRef
from fcmae.packing.encoding import Bytes

SAMPLED, CROP = 48, 224
SCALE, RATIO = (0.2, 1.0), (3 / 4, 4 / 3)
"""The defaults of ``data.crop_scale`` and ``data.crop_ratio``."""


def crops_per_second(images: Sequence[ImageRef], reading: PixelReading, side: int) -> float:
    """Random crops of ``side`` pixels per second of processor time; NaN if none can be read."""
    random = Random(0)
    spent, count = 0.0, 0
    for image in images:
        started = time.process_time()
        try:
            file = open_all_channels(image, reading)
            resized_crop(file, random_crop(random, (file.height, file.width), SCALE, RATIO), (side, side))
        except UnreadableImageError:
            continue
        if count or len(images) == 1:  # the first one also loads libraries
            spent += time.process_time() - started
        count += 1
    return (max(1, count - 1)) / spent if spent else float("nan")


def members_of(shards: Sequence[Path], count: int) -> list[ImageRef]:
    """The first images of some shards, in memory."""
    found: list[ImageRef] = []
    each = -(-count // max(1, len(shards)))
    for shard in shards:
        of_shard = 0
        with tarfile.open(shard, "r:", encoding="utf-8", errors="surrogateescape") as tar:
            for member in tar:
                if of_shard == each or len(found) == count:
                    break
                opened = tar.extractfile(member)
                if opened is not None and Path(member.name).suffix in EXTENSIONS:
                    found.append(Bytes(f"{shard}/{member.name}", opened.read()))
                    of_shard += 1
    return found

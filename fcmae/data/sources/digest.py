"""A digest of an image set: tells a resumed run whether its images are those of the checkpoint."""

import hashlib
import os
from pathlib import Path

from fcmae.data.sources.image_set import ImageSet, hash_of
from fcmae.data.stored import ImageRef, Stored
from fcmae.data.zarr_folders import metadata_of

VERSION = "2"
SAMPLED, CHUNK = 64, 2**14
"""Files whose contents are looked at, and bytes at the beginning, in the middle and at the end of each."""


def digest(images: ImageSet) -> str:
    """Names in order, sizes, times of change, and a sample of the contents, a hash of each."""
    count = min(SAMPLED, len(images))
    sampled = (_parts(images[n * len(images) // count]) for n in range(count))
    return " ".join([VERSION, *images.fingerprint(), hash_of(sampled)])


def _parts(image: ImageRef) -> bytes:
    if isinstance(image, Stored) and (known := image.fingerprint()) is not None:
        return known
    try:
        if isinstance(image, Path) and image.is_dir():
            image = Path(metadata_of(image) or image)
        with image.open() if isinstance(image, Stored) else image.open("rb", buffering=0) as opened:
            size = opened.seek(0, os.SEEK_END)
            found = []
            for position in (0, (size - CHUNK) // 2, size - CHUNK):
                opened.seek(max(0, position))
                found.append(opened.read(CHUNK))
            return b"".join(found)
    except OSError:  # counted as unreadable in training
        return b""


def difference(before: str, now: str, images: ImageSet) -> tuple[str, bool] | None:
    """How the images of a digest differ from these, in words, and whether that changes training.

    None: they do not, or nothing is known of them. Other dates alone change nothing: a copy has them.

    Args:
        before: of a checkpoint.
        now: :func:`digest` of ``images``.
        images: for checkpoints of the first version, whose digest is of the files' names alone.
    """
    old, new = str(before).split(), now.split()
    if not old:
        return None
    if old[0] != VERSION or len(old) != len(new):
        return None if before == _of_first_version(images) else ("other names or another order", True)
    names, sizes, dates, contents = (one != other for one, other in zip(old[1:], new[1:], strict=True))
    if names:
        return "other names or another order", True
    if sizes or contents:
        return "other contents under the same names", True
    return ("the same names, sizes and sampled contents, but other dates", False) if dates else None


def _of_first_version(images: ImageSet) -> str:
    return hashlib.sha256("\n".join(path.name for path in images).encode(errors="surrogateescape")).hexdigest()

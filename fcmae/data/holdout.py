"""Images held out of training: the loss on them separates learning from memorizing."""

import hashlib
from collections.abc import Iterable

import numpy as np

from fcmae.data.sources.image_set import ImageSet
from fcmae.errors import UserError

BYTES = 7  # of a draw


def hold_out(images: ImageSet, share: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """(images to train on, images held out), both in order.

    About ``share`` of them is held out, at least one if it is above 0. Whether an image is depends on its name and the
    seed alone, not on the other images.

    Raises:
        UserError: no image is left to train on.
    """
    if not share:
        return images, images.subset([])
    draws = _draws(images.encoded_names(np.arange(len(images))), seed)
    is_held = draws <= max(share, draws.min())
    trained, held = np.flatnonzero(~is_held), np.flatnonzero(is_held)
    if not len(trained):
        raise UserError(
            f"--monitor.holdout {share:g} leaves no image to train on, of {len(images):,}; give more images"
        )
    return images.subset(trained), images.subset(held)


def _draws(names: Iterable[bytes], seed: int) -> np.ndarray:
    """float64 [N], for each name uniform in [0, 1)."""
    start = hashlib.blake2b(f"holdout {seed} ".encode(), digest_size=BYTES)

    def digest(name: bytes) -> bytes:
        whole = start.copy()
        whole.update(name)
        return whole.digest()

    digests = np.frombuffer(b"".join(map(digest, names)), np.uint8).reshape(-1, BYTES)
    numbers = np.zeros((len(digests), 8), np.uint8)
    numbers[:, -BYTES:] = digests
    return numbers.view(">u8")[:, 0].astype(np.float64) / 2.0 ** (8 * BYTES)

"""Images held out of training: the loss on them separates learning from memorizing."""

import hashlib
import os

from fcmae.data.sources.image_set import ImageSet
from fcmae.errors import UserError


def hold_out(images: ImageSet, share: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """(images to train on, images held out), both in order.

    About ``share`` of them is held out, at least one if it is above 0. Whether an image is depends on its name and the
    seed alone, not on the other images.

    Raises:
        UserError: no image is left to train on.
    """
    if not share:
        return images, images.subset([])
    places = [_place(name, seed) for name in images.names]
    limit = max(share, min(places))
    held = [n for n, place in enumerate(places) if place <= limit]
    trained = [n for n, place in enumerate(places) if place > limit]
    if not trained:
        raise UserError(f"--monitor.holdout {share:g} leaves none of the {len(images)} images to train on; give more")
    return images.subset(trained), images.subset(held)


def _place(name: str, seed: int) -> float:
    """Uniform in [0, 1)."""
    whole = hashlib.blake2b(f"holdout {seed} ".encode() + os.fsencode(name), digest_size=7).digest()
    return int.from_bytes(whole, "big") / 2**56

"""Which images are held out: a share, by name and seed alone."""

import hashlib
import os
from pathlib import Path

import pytest

from fcmae.data.holdout import _draws, hold_out
from fcmae.data.sources.files import ImageFiles
from fcmae.errors import UserError


def images(count: int) -> ImageFiles:
    names = [f"a/{n}.png" for n in range(count)]
    return ImageFiles([Path("/x", name) for name in names], names, [(n, n) for n in range(count)])


def test_a_share_of_the_images_in_order() -> None:
    """2,000 draws of probability 0.05: 100 and less than five standard deviations from it."""
    trained, held = hold_out(images(2000), 0.05, seed=0)
    assert abs(len(held) - 100) < 5 * (2000 * 0.05 * 0.95) ** 0.5
    assert sorted(trained.stamps + held.stamps) == images(2000).stamps
    assert trained.stamps == sorted(trained.stamps)
    assert held.stamps == sorted(held.stamps)
    assert [path.name for path in held] == [Path(name).name for name in held.names]


def test_an_image_stays_held_out_when_others_are_added() -> None:
    few, many = (set(hold_out(images(count), 0.1, seed=3)[1].names) for count in (500, 1000))
    assert few == many & set(images(500).names)
    assert few != set(hold_out(images(500), 0.1, seed=4)[1].names)


def test_the_choice_is_that_of_before() -> None:
    """Draw by draw, from the definition; runs of older versions are resumed with the same images."""
    names = [f"a/{n}é\udcff.png" for n in range(300)]
    for seed in (0, 7):
        expected = [
            int.from_bytes(
                hashlib.blake2b(f"holdout {seed} ".encode() + os.fsencode(one), digest_size=7).digest(), "big"
            )
            / 2**56
            for one in names
        ]
        assert _draws(map(os.fsencode, names), seed).tolist() == expected
    assert hold_out(images(40), 0.1, seed=3)[1].names == [f"a/{n}.png" for n in (2, 5, 8, 28)]


def test_small_sets() -> None:
    """At least one of each; none without a share."""
    assert [len(part) for part in hold_out(images(3), 0.01, seed=0)] == [2, 1]
    assert [len(part) for part in hold_out(images(3), 0.0, seed=0)] == [3, 0]
    with pytest.raises(UserError, match=r"--monitor\.holdout 0\.5 leaves no image to train on, of 1; give more images"):
        hold_out(images(1), 0.5, seed=0)

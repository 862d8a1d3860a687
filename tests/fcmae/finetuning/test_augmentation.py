"""RandAugment: whatever it draws is an image, and timm's."""

import random

import numpy as np
import pytest
from PIL import Image
from timm.data.auto_augment import rand_augment_transform

from fcmae.finetuning.augmentation import rand_augment, seeded

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))


@pytest.mark.parametrize("notation", ["rand-m{}", "rand-m{}-inc1"])
@pytest.mark.parametrize("level", [0, 1, 5, 9, 10])
def test_every_operation_at_every_strength(notation: str, level: int) -> None:
    """The recipes draw strengths around 9, up to 10. Some were an error of Pillow, which ended the run."""
    augment = rand_augment(notation.format(level), (16, 16), (0.5,) * 3)
    assert len(augment.ops) >= 13  # type: ignore[attr-defined]
    for operation in augment.ops:  # type: ignore[attr-defined]
        operation.prob = 1.0
        for seed in range(4):  # either direction
            with seeded(seed):
                result = operation(IMAGE)
            assert (result.size, result.mode) == (IMAGE.size, "RGB"), operation.name


def test_the_strongest_posterize_is_black() -> None:
    """As before Pillow 13: no bit is left."""
    for notation in ("rand-m10-inc1", "rand-m15-mmax20-inc1"):
        augment = rand_augment(notation, (16, 16), (0.5,) * 3)
        (operation,) = [one for one in augment.ops if "Posterize" in one.name]  # type: ignore[attr-defined]
        operation.prob = 1.0
        assert not np.asarray(operation(IMAGE)).any()


def test_else_the_draws_are_timms() -> None:
    settings = {"translate_const": 7, "img_mean": (128,) * 3, "interpolation": Image.Resampling.BICUBIC}
    timms = rand_augment_transform("rand-m5-inc1", settings)  # which leaves some bits
    ours = rand_augment("rand-m5-inc1", (16, 16), (0.5,) * 3)
    for seed in range(300):
        with seeded(seed):
            expected, after = timms(IMAGE), random.random()
        with seeded(seed):
            assert np.array_equal(np.asarray(ours(IMAGE)), np.asarray(expected))
            assert random.random() == after

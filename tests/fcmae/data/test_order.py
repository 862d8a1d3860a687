"""The order of samples: every sample once an epoch, and several crops of an image spread over as many steps."""

from collections import Counter
from itertools import groupby

import pytest
import torch

from fcmae.data.draws import sample_seed
from fcmae.data.order import SampleOrder

# images, passes, crops, samples of a step: with and without a remainder, fewer images than a step takes, one image
SHAPES = [(10, 1, 2, 4), (10, 3, 3, 4), (12, 2, 4, 3), (7, 2, 2, 7), (5, 2, 3, 8), (1, 1, 4, 2), (23, 1, 5, 6)]


def order(images: int, passes: int, crops: int, step: int, seed: int = 0) -> SampleOrder:
    return SampleOrder(images * passes * crops, images, crops, step, seed)


def test_one_crop_is_a_permutation_of_the_samples() -> None:
    keys = SampleOrder(12, 4, 1, 5, seed=3)
    for epoch in (2, 0):
        expected = torch.randperm(12, generator=torch.Generator().manual_seed(sample_seed(3, epoch, 12))).tolist()
        assert [keys.key(12 * epoch + place) for place in range(12)] == [(epoch, index) for index in expected]
    assert keys.crops_with(17) == range(17, 18)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_sample_once_an_epoch(shape: tuple[int, int, int, int]) -> None:
    keys = order(*shape)
    epochs = [[keys.key(epoch * keys.num_samples + at) for at in range(keys.num_samples)] for epoch in range(3)]
    for number, found in enumerate(epochs):
        assert Counter(found) == Counter((number, index) for index in range(keys.num_samples))
    if shape[0] > 1:
        assert [index for _, index in epochs[0]] != [index for _, index in epochs[1]]
        other = order(*shape, seed=1)
        assert epochs[0] != [other.key(at) for at in range(keys.num_samples)]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_within_a_pass_holds_an_image_as_seldom_as_it_can(shape: tuple[int, int, int, int]) -> None:
    """Wherever the steps begin: an earlier epoch may have ended within one."""
    images, passes, crops, step = shape
    keys, length = order(*shape), images * crops
    for number in range(2 * passes):
        of_pass = [keys.key(number * length + at)[1] % images for at in range(length)]
        for first in range(length - step + 1):
            assert max(Counter(of_pass[first : first + step]).values()) == -(-step // images)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_crops_of_an_image(shape: tuple[int, int, int, int]) -> None:
    images, _passes, crops, step = shape
    keys = order(*shape)
    for at in range(2 * keys.num_samples):
        together = keys.crops_with(at)
        assert at in together
        assert len(together) == crops
        assert all(keys.crops_with(other) == together for other in together)
        found = [keys.key(other) for other in together]
        assert len(set(found)) == crops
        assert len({(epoch, index % images) for epoch, index in found}) == 1
        in_last_group = at % (images * crops) // (step * crops) >= images // step - 1
        assert together.step == step or in_last_group


def test_groups_are_as_large_as_a_step_and_the_last_takes_the_rest() -> None:
    """11 images, steps of 3, two crops: groups of 3, 3 and 5, each twice."""
    keys = order(11, 1, 2, 3)
    of_image = [keys.key(at)[1] % 11 for at in range(22)]
    for first, size in ((0, 3), (6, 3), (12, 5)):
        assert of_image[first : first + size] == of_image[first + size : first + 2 * size]
    assert [step for step, _ in groupby(keys.crops_with(at).step for at in range(22))] == [3, 5]

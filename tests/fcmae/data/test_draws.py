"""What is drawn for a sample: crops as torchvision draws them, masks all alike, seeds that have nothing in common."""

from collections import Counter
from itertools import combinations
from random import Random

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, ks_2samp
from torchvision.transforms import RandomResizedCrop

from fcmae.data.draws import random_crop, random_mask, sample_seed

DRAWS = 3000


@pytest.mark.parametrize("image_hw", [(375, 500), (400, 400), (90, 700), (2000, 150), (12, 9)])
@pytest.mark.parametrize(("scale", "ratio"), [((0.2, 1.0), (3 / 4, 4 / 3)), ((0.05, 0.3), (1.5, 3.0))])
def test_crops_are_distributed_as_torchvisions(
    image_hw: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    """Area, shape and place, by the test of Kolmogorov and Smirnov; also where most crops do not fit the image."""
    shape = torch.empty(3, *image_hw, device="meta")
    torch.manual_seed(0)
    theirs = np.array([RandomResizedCrop.get_params(shape, list(scale), list(ratio)) for _ in range(DRAWS)])
    random = Random(1)
    ours = np.array([random_crop(random, image_hw, scale, ratio) for _ in range(DRAWS)])
    assert (ours >= 0).all()
    assert (ours[:, 2:] > 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= image_hw).all()
    for measure in (
        lambda crops: crops[:, 2] * crops[:, 3],
        lambda crops: crops[:, 3] / crops[:, 2],
        lambda crops: crops[:, 0],
        lambda crops: crops[:, 1],
        lambda crops: crops[:, 0] + crops[:, 2],
    ):
        assert ks_2samp(measure(ours), measure(theirs)).pvalue > 1e-4


@pytest.mark.parametrize(
    ("image_hw", "ratio", "expected"),
    [
        ((90, 700), (3 / 4, 4 / 3), (0, 290, 90, 120)),
        ((2000, 150), (3 / 4, 4 / 3), (900, 0, 200, 150)),
        ((100, 400), (1.5, 3.0), (0, 50, 100, 300)),
        ((400, 150), (1.5, 3.0), (150, 0, 100, 150)),
        ((1, 1), (3 / 4, 4 / 3), (0, 0, 1, 1)),
        ((1, 9), (3 / 4, 4 / 3), (0, 4, 1, 1)),
    ],
)
def test_where_no_crop_fits_it_is_the_largest_at_the_center(
    image_hw: tuple[int, int], ratio: tuple[float, float], expected: object
) -> None:
    """As torchvision; the whole image's area, so that none of these shapes fits."""
    assert random_crop(Random(0), image_hw, (1.0, 1.0), ratio) == expected
    shape = torch.empty(3, *image_hw, device="meta")
    assert RandomResizedCrop.get_params(shape, [1.0, 1.0], list(ratio)) == expected


def test_every_mask_is_as_likely() -> None:
    """All fifteen ways to keep two of six patches."""
    random, counts = Random(0), Counter()
    for _ in range(DRAWS):
        mask = random_mask(random, (2, 3), 2)
        assert mask.shape == (2, 3)
        assert mask.dtype == torch.bool
        counts[tuple(mask.flatten().nonzero().flatten().tolist())] += 1
    assert set(counts) == set(combinations(range(6), 2))
    assert chisquare(list(counts.values())).pvalue > 1e-4
    assert random_mask(random, (2, 3), 6).all()


def test_seeds_are_well_mixed() -> None:
    """Each once; of neighbors' bits, half differ."""
    seeds = {(s, e, i): sample_seed(s, e, i) for s in range(5) for e in range(20) for i in range(50)}
    assert len(set(seeds.values())) == 5000
    assert max(seeds.values()) < 2**63
    flipped = [(seeds[s, e, i] ^ seeds[s, e, i + 1]).bit_count() for s, e, i in seeds if i < 49]
    assert abs(sum(flipped) / len(flipped) - 31.5) < 0.5
    assert sample_seed(1, 2, 3) == sample_seed(1, 2, 3) != sample_seed(12, 3, 0)

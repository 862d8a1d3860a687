"""Pictures that look alike are found after resizing and compression; others, however similar in kind, are not."""

import io

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from fcmae.survey.duplicates import BANDS, BITS, REACH, _bits_set, _close, equal_contents, look_alike
from fcmae.survey.facts import signature

R = np.random.default_rng(0)


def picture(seed: int, size: int = 128) -> np.ndarray:
    """Smooth color noise with detail."""
    random = np.random.default_rng(seed)
    fields = [gaussian_filter(random.normal(size=(size, size)), sigma) for sigma in (4, 8, 20)]
    gray = sum(field / field.std() for field in fields)
    return np.clip(np.stack([gray * 30 + 120, gray * 20 + 100, -gray * 30 + 90], 2), 0, 255).astype(np.uint8)


def seen(array: np.ndarray) -> np.ndarray:
    found = signature(torch.from_numpy(np.moveaxis(array, 2, 0).copy()))
    assert found is not None
    return found


def worse(array: np.ndarray, size: tuple[int, int], quality: int) -> np.ndarray:
    jpeg = io.BytesIO()
    Image.fromarray(array).resize(size).save(jpeg, "JPEG", quality=quality)
    return np.asarray(Image.open(jpeg))


def test_copies_of_another_size_and_quality_are_found() -> None:
    originals = [picture(seed) for seed in range(30)]
    copies = {7: worse(originals[7], (64, 64), 75), 13: worse(originals[13], (300, 280), 60), 21: originals[21] // 2}
    signatures = np.stack([seen(one) for one in [*originals, *copies.values()]])
    assert look_alike(signatures) == [[7, 30], [13, 31], [21, 32]]


def test_many_equal_pictures_are_one_group() -> None:
    one, other = seen(picture(0)), seen(picture(1))
    signatures = np.stack([one] * (2 * REACH) + [other])
    assert look_alike(signatures) == [list(range(2 * REACH))]
    assert look_alike(signatures[-2:]) == look_alike(signatures[-1:]) == look_alike(signatures[:0]) == []


def test_every_pair_of_close_hashes_is_met() -> None:
    """Any bits may differ: with one band more than bits, one band agrees."""
    assert BANDS == BITS + 1
    hashes = R.integers(0, 2**63, 200, dtype=np.uint64)
    near = hashes.copy()
    for place in range(len(near)):
        for bit in R.choice(64, BITS, replace=False):
            near[place] ^= np.uint64(1) << np.uint64(bit)
    left, right = _close(np.concatenate([hashes, near]))
    pairs = {(min(pair), max(pair)) for pair in zip(left.tolist(), right.tolist(), strict=True)}
    assert pairs == {(n, n + 200) for n in range(200)}


def test_bits_are_counted_alike_with_any_numpy() -> None:
    numbers = R.integers(0, 2**63, 100, dtype=np.uint64)
    expected = [int(number).bit_count() for number in numbers]
    assert _bits_set(numbers).tolist() == expected
    assert np.unpackbits(numbers[:, None].view(np.uint8), axis=1).sum(1).tolist() == expected


def test_an_image_of_one_color_has_no_signature() -> None:
    assert signature(torch.full((3, 40, 40), 7, dtype=torch.uint8)) is None
    assert signature(torch.full((1, 40, 40), torch.nan)) is None
    assert signature(torch.rand(1, 5, 3)) is not None


def test_equal_contents() -> None:
    assert equal_contents({5: b"a", 1: b"b", 3: b"a", 9: b"b", 2: b"c"}) == [[1, 9], [3, 5]]

"""Masks of a seed, and those of a user's file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fcmae.analysis.masks import random_masks, read_mask
from fcmae.errors import UserError


def test_a_patch_goes_with_the_majority_of_the_masks_pixels(tmp_path: Path) -> None:
    """By counting, on a mask of 5 × 7 pixels a patch; and where the mask is the coarser one, by the nearest pixel."""
    pixels = np.random.default_rng(0).random((3 * 5, 4 * 7)) < 0.5
    Image.fromarray(pixels).save(tmp_path / "mask.png")  # a bilevel image
    share = pixels.reshape(3, 5, 4, 7).mean((1, 3))
    assert torch.equal(read_mask(tmp_path / "mask.png", (3, 4)), torch.from_numpy(share >= 0.5))
    Image.fromarray(np.array([[0, 127], [128, 255]], dtype=np.uint8)).save(tmp_path / "coarse.png")
    assert read_mask(tmp_path / "coarse.png", (4, 4)).tolist() == [[False] * 4] * 2 + [[True] * 4] * 2


def test_masks_are_those_of_the_seed_and_lower_ratios_add_patches() -> None:
    masks = {ratio: random_masks(5, (7, 7), ratio, seed=3) for ratio in (0.4, 0.6)}
    assert torch.equal(masks[0.6], random_masks(5, (7, 7), 0.6, seed=3))
    assert not torch.equal(masks[0.6], random_masks(5, (7, 7), 0.6, seed=4))
    assert (masks[0.4] | ~masks[0.6]).all()
    assert len({tuple(mask.flatten().tolist()) for mask in masks[0.6]}) == 5


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((3, 4)), r"must be bool \[3, 4\], a value per patch; it is float64 \[3, 4\]"),
        (np.ones((4, 3), dtype=bool), r"it is bool \[4, 3\]"),
        (np.ones((3, 4), dtype=bool), "leaves 12 of 12 patches visible"),
        (np.zeros((3, 4), dtype=bool), "leaves 0 of 12 patches visible"),
    ],
)
def test_masks_that_do_not_fit_are_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "mask.npy", array)
    with pytest.raises(UserError, match=message):
        read_mask(tmp_path / "mask.npy", (3, 4))


def test_a_mask_that_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_text("no image")
    (tmp_path / "mask.npy").write_text("no array")
    (tmp_path / "empty.npy").write_bytes(b"")
    for name in ("mask.png", "mask.npy", "empty.npy"):
        with pytest.raises(UserError, match="is neither an image nor"):
            read_mask(tmp_path / name, (3, 4))


def test_a_mask_of_too_many_pixels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (40, 40)).save(tmp_path / "mask.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow refuses from twice as many on
    with pytest.raises(UserError, match="exceeds limit"):
        read_mask(tmp_path / "mask.png", (3, 4))


@pytest.mark.parametrize(("alpha", "said"), [(0, True), (255, False)])
def test_transparency_of_a_mask_does_not_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, alpha: int, said: bool
) -> None:
    """The left half is white, the right half black; how transparent the left is changes nothing but the log."""
    image = Image.new("RGBA", (40, 30), (0, 0, 0, 255))
    image.paste((255, 255, 255, alpha), (0, 0, 20, 30))
    image.save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png", (3, 4)).tolist() == [[True, True, False, False]] * 3
    assert ("transparency is ignored" in caplog.text) is said

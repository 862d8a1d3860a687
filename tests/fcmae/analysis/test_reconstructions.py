"""Visible pixels are the image's own, masked ones the prediction; pictures show both."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fcmae.analysis.masks import random_masks
from fcmae.analysis.reconstructions import (
    GAP,
    LINE,
    font_size,
    paste_reconstruction,
    reconstruction_picture,
    save_picture,
)
from fcmae.data.normalizer import Normalizer
from fcmae.models import FCMAE, ModelConfig
from fcmae.models.fcmae import NORM_EPS
from fcmae.models.patches import enlarge_mask, patchify, unpatchify
from fcmae.sparse.backends.pytorch import patch_mean_std

PATCH = 8


def test_visible_pixels_are_exactly_the_originals_and_masked_ones_the_prediction() -> None:
    """In float, by a literal repetition of what the decoder said of each patch."""
    torch.manual_seed(0)
    model = FCMAE(ModelConfig(img_size=32, stem_stride=1, decoder_dim=16, in_chans=2)).eval()
    images = torch.rand(3, 2, 32, 32)
    visible = random_masks(3, (4, 4), 0.6, seed=1)
    mean, std = (0.4, 0.1), (0.2, 0.7)
    pasted = paste_reconstruction(model, images, visible, Normalizer(mean, std))
    where = enlarge_mask(visible, PATCH).expand_as(images)
    assert torch.equal(pasted[where], images[where])

    normalized = (images - torch.tensor(mean).view(2, 1, 1)) / torch.tensor(std).view(2, 1, 1)
    with torch.no_grad():
        predicted = model(normalized, visible=visible).pred
    patch_mean, patch_std = patch_mean_std(patchify(normalized, PATCH), NORM_EPS)
    back = unpatchify(predicted * patch_std + patch_mean, PATCH, (4, 4))
    back = (back * torch.tensor(std).view(2, 1, 1) + torch.tensor(mean).view(2, 1, 1)).clamp(0, 1)
    torch.testing.assert_close(pasted[~where], back[~where])


@pytest.mark.parametrize("channels", [1, 2, 3, 7])
def test_a_picture_has_the_three_rows(tmp_path: Path, channels: int) -> None:
    """Each row shows its own images, enlarged by a whole factor; masked pixels are gray in the middle row."""
    original, pasted = torch.full((2, channels, 64, 80), 0.2), torch.full((2, channels, 64, 80), 0.8)
    where = torch.zeros(2, 1, 64, 80, dtype=torch.bool)
    where[:, :, :32] = True
    picture = reconstruction_picture(original, pasted, where, 0.6)
    factor = 3  # 64 pixels → at least 160
    width = 2 * (80 * factor + GAP) + GAP
    caption = round(LINE * font_size(width))
    assert picture.size == (width, 3 * (caption + 64 * factor + 2 * GAP))
    pixels = np.asarray(picture)
    row = caption + 64 * factor + 2 * GAP
    for r, (upper, lower) in enumerate([(51, 51), (51, 127), (204, 204)]):
        top = r * row + caption + GAP
        assert abs(int(pixels[top + 5, GAP + 5, 0]) - upper) <= 1
        assert abs(int(pixels[top + 64 * factor - 5, GAP + 5, 0]) - lower) <= 1
        assert (pixels[r * row : r * row + caption] < 100).any()  # a caption
    save_picture(picture, tmp_path / "new" / "a.png")
    assert (tmp_path / "new" / "a.png").stat().st_size > 0


@pytest.mark.parametrize("images", [1, 4, 8, 16])
def test_captions_are_readable_on_a_phone(images: int) -> None:
    """At least 9 of a phone's 375 pixels high, however many images stand side by side; none is cut off."""
    blank = torch.zeros(images, 3, 64, 64)
    picture = reconstruction_picture(blank, blank, torch.ones(images, 1, 64, 64, dtype=torch.bool), 0.6)
    assert font_size(picture.width) * 375 / picture.width >= 9
    assert (np.asarray(picture)[:, -GAP:] > 100).any(1).all()

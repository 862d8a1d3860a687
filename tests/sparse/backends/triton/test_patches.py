"""Pixels of patches: the stem's rows and the loss's targets, against PyTorch's."""

import pytest
import torch

from fcmae.sparse.backends import pytorch
from fcmae.sparse.backends.triton import patches
from fcmae.sparse.sites import ActiveSites
from tests.conftest import random_visible
from tests.sparse.backends.triton.made import DEVICE


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(
    ("side", "stride", "channels", "dtype"),
    [
        (8, 4, 3, torch.float32),
        (4, 1, 33, torch.float32),
        (1, 8, 5, torch.float32),
        (2, 2, 1, torch.bfloat16),
        (2, 2, 1, torch.float16),
    ],
)
def test_pixels_of_patches(
    side: int, stride: int, channels: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As PyTorch's, for visible and masked patches, on oblong grids, and of patches larger than a block."""
    monkeypatch.setattr(patches, "LARGEST_BLOCK", 512)
    sites, size = ActiveSites(random_visible(2, 2, 3, 4).to(DEVICE)), side * stride
    images = torch.randn(2, channels, 2 * size, 3 * size, device=DEVICE).to(dtype)
    masked = sites.complement().visible.repeat_interleave(size, 1).repeat_interleave(size, 2)
    unread = images.masked_fill(masked[:, None], torch.nan)
    assert torch.equal(patches.stem_rows(unread, sites, side, stride), pytorch.stem_rows(images, sites, side, stride))
    for chosen in (sites, sites.complement(), ActiveSites.full(2, 2, 3, images.device)):
        for eps in (None, 1e-6):
            expected = pytorch.patch_pixels(images, chosen, size, eps)
            got = patches.patch_pixels(images.transpose(2, 3).contiguous().transpose(2, 3), chosen, size, eps)
            torch.testing.assert_close(got, expected)


@pytest.mark.usefixtures("rounding_to_nearest")
def test_pixels_of_patches_call_pytorch_where_the_kernels_cannot_run() -> None:
    """A gradient to the image, float64, no patch at all; under autocast the stem's rows are what its product reads."""
    sites = ActiveSites(random_visible(1, 1, 2, 1).to(DEVICE))
    images = torch.randn(1, 3, 8, 16, device=DEVICE, requires_grad=True)
    rows, targets = patches.stem_rows(images, sites, 2, 4), patches.patch_pixels(images, sites, 8, 1e-6)
    assert all(t is not None for t in torch.autograd.grad(rows.sum() + targets.square().sum(), images))
    wide = images.detach().double()
    assert (
        patches.stem_rows(wide, sites, 2, 4).dtype == patches.patch_pixels(wide, sites, 8, None).dtype == torch.float64
    )
    none = ActiveSites.full(1, 1, 2, images.device).complement()
    assert patches.patch_pixels(images.detach(), none, 8, None).shape == (0, 192)
    with torch.autocast(DEVICE, torch.bfloat16):
        low = patches.stem_rows(images.detach(), sites, 2, 4)
    assert torch.equal(low, rows.detach().bfloat16())
    with pytest.raises(ValueError, match="do not fit"):
        patches.stem_rows(images.detach(), sites, 2, 2)
    with pytest.raises(ValueError, match="do not fit"):
        patches.patch_pixels(images.detach(), sites, 4, None)

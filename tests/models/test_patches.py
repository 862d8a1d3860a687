"""Which images patches divide; patchify and its inverse are tested with the network whose loss they define."""

import pytest
import torch

from fcmae.models.patches import patch_grid


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 3, 30, 32), (2, 3, 32, 33), (2, 3, 0, 32)])
def test_images_that_patches_do_not_divide_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"do not fit: they must be \[B, C, H, W\], H and W multiples of 16"):
        patch_grid(torch.zeros(shape), 16)
    assert patch_grid(torch.zeros(2, 3, 32, 48), 16) == (2, 3)

"""Random draws of a sample: seeds, crop positions, visible patches.

They use Python's generator because PyTorch's returns tensors and is slower for single numbers.
"""

import hashlib
import math
from random import Random

import torch
from torch import Tensor

TRIES = 10  # as in torchvision


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """A well-mixed 63-bit seed: neighboring samples get unrelated seeds."""
    digest = hashlib.blake2b(f"{seed} {epoch} {index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def random_crop(
    random: Random, image_hw: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """(top, left, height, width), distributed as by torchvision's ``RandomResizedCrop``.

    Args:
        random: generator.
        image_hw: height and width of the image.
        scale: lower and upper bound of the crop's share of the image's area, uniform between them.
        ratio: bounds of width / height, its logarithm uniform between them.
    """
    height, width = image_hw
    for _ in range(TRIES):
        area = height * width * random.uniform(*scale)
        aspect = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
        rows, columns = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < rows <= height and 0 < columns <= width:
            return random.randint(0, height - rows), random.randint(0, width - columns), rows, columns
    # the image is narrower or wider than any crop: take the largest crop at its center
    rows = min(height, max(1, round(width / min(ratio))))
    columns = min(width, max(1, round(height * max(ratio))))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


def random_mask(random: Random, grid_hw: tuple[int, int], num_visible: int) -> Tensor:
    """A random mask, bool [h, w] with ``num_visible`` True; all such masks are equally likely."""
    flags = bytearray(math.prod(grid_hw))
    for patch in random.sample(range(len(flags)), num_visible):
        flags[patch] = True
    return torch.frombuffer(flags, dtype=torch.bool).view(grid_hw)

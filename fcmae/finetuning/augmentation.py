"""Augmentation of single images by timm; what is drawn depends on the seed of the sample alone."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import posterize, rand_augment_transform
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from fcmae.errors import UserError

Augment = Callable[[Image.Image], Image.Image]
CHANNELS = (1, 3)
"""Channels of images that RandAugment takes."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """While open, Python's, NumPy's and torch's global generators (of the CPU), which timm uses, are seeded."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def rand_augment(notation: str, image_hw: tuple[int, int], mean: Sequence[float]) -> Augment:
    """timm's RandAugment of a Pillow image, with the settings of timm's training transform.

    Args:
        notation: such as ``rand-m9-mstd0.5-inc1``.
        image_hw: of the images it will be applied to; translations are up to 45% of the shorter side.
        mean: of each channel in 0 … 1, the color of what is moved in from outside.

    Raises:
        UserError: notation that timm does not understand.
    """
    color = [min(255, round(255 * value)) for value in mean]
    settings = {
        "translate_const": int(min(image_hw) * 0.45),
        "img_mean": tuple(color * 3 if len(color) == 1 else color),
        "interpolation": Image.Resampling.BICUBIC,
    }
    try:
        augment = rand_augment_transform(notation, settings)
    except (AssertionError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"--augment.rand_augment {notation} is not understood ({reason}); write for example rand-m9-mstd0.5-inc1"
        ) from None
    for operation in augment.ops:
        if operation.aug_fn is posterize:
            operation.aug_fn = _posterized
    return augment


def _posterized(image: Image.Image, bits: int, **others: Any) -> Image.Image:
    """timm's, whose strongest leave no bit: that is black, but Pillow from 13 on refuses to do it."""
    return posterize(image, bits, **others) if bits > 0 else Image.new(image.mode, image.size)


def augmented(image: Tensor, augment: Augment) -> Tensor:
    """uint8 [1 or 3, H, W], augmented; a gray image stays gray."""
    gray = len(image) == 1
    result = augment(TF.to_pil_image(image.expand(3, -1, -1) if gray else image))
    return TF.pil_to_tensor(result.convert("L") if gray else result)


def erasing(probability: float) -> Callable[[Tensor], Tensor]:
    """timm's random erasing of a normalized image, float32 [C, H, W], in place: one rectangle, of normal noise."""
    return RandomErasing(probability, mode="pixel", max_count=1, device="cpu")

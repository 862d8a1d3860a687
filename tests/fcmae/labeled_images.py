"""Small labeled images that anything tells apart."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

COLORS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}


def fill(folder: Path, color: tuple[int, int, int], count: int) -> None:
    """Images of about one color."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for n in range(count):
        noise = random.integers(-20, 20, (20, 24, 3))
        Image.fromarray((np.array(color) + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{n}.png")


def fill_classes(folder: Path, colors: Mapping[str, tuple[int, int, int]], count: int) -> None:
    """A folder of such images for each class."""
    for name, color in colors.items():
        fill(folder / name, color, count)

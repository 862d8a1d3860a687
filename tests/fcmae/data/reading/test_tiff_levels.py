"""Overviews are read for crops far larger than the network's images, and for these alone."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from fcmae.data.crops import resized_crop
from fcmae.data.images import UnreadableImageError, open_image
from fcmae.data.pixel_reading import PixelReading

HW = (640, 1003)


def write(path: Path, levels: list[np.ndarray], nested: bool = False) -> None:
    """A tiled TIFF and its overviews, which follow it or lie in SubIFDs."""
    options: dict = {"tile": (64, 64), "photometric": "minisblack", "compression": "zlib", "metadata": None}
    if levels[0].ndim == 3:
        options["planarconfig"] = "contig"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(levels[0], subifds=len(levels) - 1 if nested else 0, **options)
        for level in levels[1:]:
            tiff.write(level, subfiletype=1, **options)


def constants(dtype: type = np.uint16) -> list[np.ndarray]:
    """Three levels, half as large each; every pixel of level n is 100 + n."""
    return [np.full((-(-HW[0] // 2**n), -(-HW[1] // 2**n)), 100 + n, dtype) for n in range(3)]


def read(path: Path, side: int, **reading: int) -> float:
    """The one value of a square crop, in the middle, resized to 32 pixels."""
    file = open_image(path, PixelReading(1, value_range=(0, 1000), **reading))
    image = resized_crop(file, (10, 200, side, side), (32, 32))
    assert image.shape == (1, 32, 32)
    assert image.std() < 1e-6
    return round(float(image.mean()) * 1000, 3)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(("side", "value"), [(32, 100), (127, 100), (128, 101), (255, 101), (256, 102), (600, 102)])
def test_a_level_has_at_least_twice_the_resolution(tmp_path: Path, nested: bool, side: int, value: int) -> None:
    write(tmp_path / "a.tif", constants(), nested)
    assert read(tmp_path / "a.tif", side) == value


def test_eight_bits_are_read_as_ever_unless_the_crop_is_too_large(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", constants(np.uint8))
    assert read(tmp_path / "a.tif", 600) == 100
    assert read(tmp_path / "a.tif", 600, max_pixels=300**2) == 102


def test_a_crop_beyond_the_limit_can_be_read(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", constants())
    assert read(tmp_path / "a.tif", 600, max_pixels=300**2) == 102
    write(tmp_path / "b.tif", constants()[:1])
    with pytest.raises(UnreadableImageError, match="more than the limit"):
        read(tmp_path / "b.tif", 600, max_pixels=300**2)


@pytest.mark.parametrize("crop", [(0, 0, 640, 1003), (1, 3, 400, 301), (239, 602, 401, 401)])
def test_the_same_part_of_the_image(tmp_path: Path, crop: tuple[int, int, int, int]) -> None:
    """A smooth image with levels of averages: nearly the values of the full resolution."""
    y, x = np.mgrid[: HW[0], : HW[1]]
    full = np.stack([30000 + 20000 * np.sin(y / 90), 30000 + 20000 * np.cos(x / 110)], 2)
    padded = np.pad(full, ((0, 0), (0, 1), (0, 0)), "edge")
    levels = [full] + [
        padded.reshape(HW[0] // n, n, 1004 // n, n, 2).mean((1, 3)) for n in (2, 4)
    ]  # fmt: skip
    write(tmp_path / "a.tif", [level.astype(np.uint16) for level in levels])
    write(tmp_path / "b.tif", [full.astype(np.uint16)])
    reading = PixelReading(2, value_range=(0, 65535))
    with_levels, without = (
        resized_crop(open_image(tmp_path / name, reading), crop, (40, 40)) for name in ("a.tif", "b.tif")
    )
    assert (with_levels - without).abs().max() < 0.008  # half a pixel of a level is two of the image
    assert not torch.equal(with_levels, without)


def test_overviews_of_another_shape_are_left_alone(tmp_path: Path) -> None:
    levels = constants()
    write(tmp_path / "a.tif", [levels[0], levels[1][:-40]])
    assert read(tmp_path / "a.tif", 600) == 100

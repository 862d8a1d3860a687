"""Mask pages inside a TIFF (GDAL's internal masks): pixels without data are NaN, whatever their value."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from fcmae.data.images import UnreadableImageError, decoded, open_image
from fcmae.data.pixel_reading import PixelReading

R = np.random.default_rng(0)
HW = (70, 90)
VALUES = R.integers(1, 250, (*HW, 3))
MASK = R.random(HW) < 0.7
MASK[:40, :40] = True


def write(
    path: Path, dtype: type, mask: np.ndarray, orientation: int = 1, overview: bool = False, **tiles: object
) -> None:
    """The image and its mask, one after the other; with overviews between them, as GDAL may order them."""
    tags = [(274, 3, 1, orientation, True)]
    options: dict = {"metadata": None, "photometric": "rgb", "extratags": tags, **tiles}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(VALUES.astype(dtype), **options)
        if overview:
            tiff.write(VALUES[::2, ::2].astype(dtype), subfiletype=1, **options)
            small = np.zeros_like(mask[::2, ::2])
            tiff.write(small, subfiletype=5, metadata=None, photometric="minisblack", **tiles)
        tiff.write(mask, subfiletype=4, metadata=None, photometric="minisblack", **tiles)


@pytest.mark.parametrize("tiles", [{}, {"tile": (16, 32), "compression": "zlib"}], ids=["strips", "tiles"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("overview", [False, True])
def test_masked_pixels_have_no_value(tmp_path: Path, dtype: type, tiles: dict, overview: bool) -> None:
    write(tmp_path / "a.tif", dtype, MASK, overview=overview, **tiles)
    file = open_image(tmp_path / "a.tif", PixelReading(3, value_range=(0, 255)))
    expected = torch.from_numpy(np.where(MASK[..., None], VALUES / 255, np.nan).astype(np.float32)).permute(2, 0, 1)
    torch.testing.assert_close(file.decode(), expected, equal_nan=True)
    torch.testing.assert_close(decoded(file).crop((0, 0, *HW)), expected, equal_nan=True)
    for top, left, height, width in ((30, 20, 40, 70), (69, 89, 1, 1), (5, 5, 20, 20)):
        part = expected[:, top : top + height, left : left + width]
        torch.testing.assert_close(file.crop((top, left, height, width)), part, equal_nan=True)
    values, gone = file.own_values(None)
    assert gone is not None
    np.testing.assert_array_equal(gone, np.broadcast_to(~MASK, values.shape))


def test_a_mask_of_ones_leaves_bytes_as_they_are(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", np.uint8, np.ones_like(MASK))
    image = open_image(tmp_path / "a.tif").decode()
    assert image.dtype == torch.uint8
    assert torch.equal(image, torch.from_numpy(VALUES.astype(np.uint8)).permute(2, 0, 1))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_mask_turns_with_its_image(tmp_path: Path, dtype: type) -> None:
    write(tmp_path / "a.tif", dtype, MASK, orientation=6)
    file = open_image(tmp_path / "a.tif", PixelReading(3, value_range=(0, 255)))
    assert torch.equal(file.decode()[0].isnan(), torch.from_numpy(~np.rot90(MASK, -1)))
    assert torch.equal(file.crop((20, 10, 30, 40))[0].isnan(), torch.from_numpy(~np.rot90(MASK, -1)[20:50, 10:50]))


def test_nodata_and_the_mask_add_up(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", np.float32, MASK)
    file = open_image(tmp_path / "a.tif", PixelReading(3, value_range=(0, 255), nodata=100))
    expected = (VALUES == 100) | ~MASK[..., None]
    assert torch.equal(file.decode().isnan(), torch.from_numpy(expected).permute(2, 0, 1))


def test_a_damaged_mask_is_that_files_fault(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", np.uint8, MASK)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tiff:
        tiff.pages[1].tags["StripOffsets"].overwrite([10**6])
    with pytest.raises(UnreadableImageError, match="truncated"):
        open_image(tmp_path / "a.tif")

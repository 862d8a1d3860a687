"""Values of files → 0 … 1, the same for every image; missing ones are NaN and become the mean."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from fcmae.data.crops import resized_crop
from fcmae.data.images import open_image, read_image
from fcmae.data.normalizer import Normalizer, Pixels
from fcmae.data.pixel_reading import PixelReading

GDAL_NODATA = 42113


def save(path: Path, array: np.ndarray, nodata: str | None = None) -> None:
    tags = [] if nodata is None else [(GDAL_NODATA, 2, len(nodata) + 1, nodata, True)]
    tifffile.imwrite(path, array, photometric="minisblack", extratags=tags)


def test_a_value_range_is_the_same_for_every_image(tmp_path: Path) -> None:
    """A bright pixel elsewhere changes nothing; what lies beyond is clipped."""
    tissue = np.full((8, 8), 200, np.uint16)
    bright = tissue.copy()
    bright[0, 0] = 60000
    for dtype in (np.uint16, np.int16, np.int32, np.float32, np.float64):
        for name, array in (("a", tissue), ("b", bright)):
            save(tmp_path / f"{name}.tif", np.clip(array, 0, 32000).astype(dtype))
        a, b = (read_image(tmp_path / f"{name}.tif", PixelReading(1, value_range=(100, 500))) for name in "ab")
        assert a[0, 4, 4] == b[0, 4, 4] == pytest.approx(0.25)
        assert b[0, 0, 0] == 1


def test_a_range_per_channel(tmp_path: Path) -> None:
    save(tmp_path / "a.tif", np.stack([np.full((8, 8), -12.0), np.full((8, 8), 1500.0)]).astype(np.float32))
    image = read_image(tmp_path / "a.tif", PixelReading(2, value_range=(-24, 0, 0, 3000)))
    torch.testing.assert_close(image, torch.full((2, 8, 8), 0.5))


def test_eight_bits_by_a_range_of_their_own(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 30, np.uint8)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", 1).dtype == torch.uint8
    assert float(read_image(tmp_path / "a.png", PixelReading(1, value_range=(10, 50)))[0, 0, 0]) == 0.5


@pytest.mark.parametrize("given", [(1.0,), (5.0, 5.0), (0.0, 1.0, 2.0), (0.0, float("nan")), (0, 1, 0, 1)])
def test_what_is_no_range(given: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="value_range must"):
        PixelReading(3, value_range=given)


@pytest.mark.parametrize("extreme", [3e38, 8e307])
def test_the_largest_numbers_stay_finite(tmp_path: Path, extreme: float) -> None:
    dtype = np.float32 if extreme < 1e39 else np.float64
    save(tmp_path / "a.tif", np.linspace(-extreme, extreme, 64).reshape(8, 8).astype(dtype))
    for reading in (PixelReading(1), PixelReading(1, value_range=(-extreme, extreme))):
        image = read_image(tmp_path / "a.tif", reading)
        torch.testing.assert_close(image.flatten(), torch.linspace(0, 1, 64))


@pytest.mark.parametrize("tag", ["-3.4028235e+38", "-3.40282346638529e+38", None])
def test_missing_by_the_files_tag_or_by_the_setting(tmp_path: Path, tag: str | None) -> None:
    array = np.linspace(0, 100, 64, dtype=np.float32).reshape(8, 8)
    array[:2] = np.finfo(np.float32).min
    array[3, 3], array[3, 4] = np.nan, np.inf
    save(tmp_path / "a.tif", array, tag)
    nodata = None if tag else float(np.finfo(np.float32).min)
    image = read_image(tmp_path / "a.tif", PixelReading(1, value_range=(0, 100), nodata=nodata))[0]
    gone = ~(np.isfinite(array) & (array >= 0))
    assert torch.equal(image.isnan(), torch.from_numpy(gone))
    torch.testing.assert_close(image[~image.isnan()] * 100, torch.from_numpy(array[~gone]))


def test_an_ordinary_value_in_one_channel_is_not_missing(tmp_path: Path) -> None:
    """0 in unsigned integers: black, unless all channels have it."""
    array = np.full((3, 8, 8), 9, np.uint8)
    array[0, 0, 0] = 0
    array[:, 1, 1] = 0
    np.save(tmp_path / "a.npy", array)
    image = read_image(tmp_path / "a.npy", PixelReading(3, nodata=0))
    assert image[:, 1, 1].isnan().all()
    assert int(image.isnan().sum()) == 3


def test_the_mean_in_place_of_missing_pixels() -> None:
    normalize = Normalizer((0.5, 0.2), (0.1, 0.1))
    image = torch.tensor([0.6, float("nan")]).view(2, 1, 1)
    assert normalize(image).flatten().tolist() == [pytest.approx(1.0), 0.0]


def test_resizing_gives_missing_pixels_no_weight(tmp_path: Path) -> None:
    array = np.full((64, 64), 50, np.float32)
    array[:, :20] = -9999
    save(tmp_path / "a.tif", array, "-9999")
    image = resized_crop(
        open_image(tmp_path / "a.tif", PixelReading(1, value_range=(0, 100))), (0, 0, 64, 64), (16, 16)
    )
    assert image[0, :, :5].isnan().all()
    torch.testing.assert_close(image[0, :, 5:], torch.full((16, 11), 0.5))


def test_twelve_bits_by_type(tmp_path: Path) -> None:
    """Packed 12-bit values: white is 4095."""
    array = np.array([[0, 4095], [2048, 1]], np.uint16).repeat(8, 0).repeat(8, 1)
    tifffile.imwrite(tmp_path / "a.tif", array, bitspersample=12)
    image = read_image(tmp_path / "a.tif", 1)[0]
    torch.testing.assert_close(image, torch.from_numpy(array.astype(np.float32) / 4095))


def test_what_an_image_processor_computes() -> None:
    """value · factor − mean, divided by std, is the run's own normalization for every channel."""
    reading = PixelReading(2, value_range=(-1000, 3000, 0, 100))
    normalize = Normalizer((0.3, 0.6), (0.2, 0.1))
    factor, mean, std = Pixels(normalize, reading).of_raw_values()
    for channel, value in ((0, 500.0), (1, 70.0)):
        low, high = reading.pairs()[channel]
        expected = ((value - low) / (high - low) - normalize.mean[channel]) / normalize.std[channel]
        assert (value * factor - mean[channel]) / std[channel] == pytest.approx(expected)
    assert Pixels(normalize, PixelReading(2)).of_raw_values() == (1 / 255, (0.3, 0.6), (0.2, 0.1))

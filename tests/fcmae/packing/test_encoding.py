"""What an image becomes in a shard: its size, its format, and that the values of deep images survive."""

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage.data import astronaut

from fcmae.data.images import UnreadableImageError, open_all_channels, open_image
from fcmae.data.pixel_reading import PixelReading
from fcmae.packing.encoding import Bytes, Encoding, Packed, packed
from fcmae.packing.lossless import shrunk

READING = PixelReading(stack="images")
PHOTO = Image.fromarray(astronaut()[:300, :400])
R = np.random.default_rng(0)


def of(file: Path, encoding: Encoding | None = None) -> Packed:
    return packed(file, READING, encoding or Encoding(64))


def values(found: Packed, reading: PixelReading = READING) -> np.ndarray:
    return open_all_channels(Bytes("it", found.data), reading).own_values(None)[0]


@pytest.mark.parametrize(("format", "ending"), [("jpeg", ".jpg"), ("png", ".png"), ("webp", ".webp")])
def test_a_photo_shrinks_to_the_short_side_and_looks_the_same(tmp_path: Path, format: str, ending: str) -> None:
    PHOTO.save(tmp_path / "a.png")
    found = of(tmp_path / "a.png", Encoding(64, format))  # type: ignore[arg-type]
    assert found.ending == ending
    small = np.asarray(Image.open(io.BytesIO(found.data)).convert("RGB"))
    assert small.shape == (64, 85, 3)
    expected = np.asarray(PHOTO.resize((85, 64), Image.Resampling.BICUBIC)).astype(float)
    assert np.abs(small - expected).mean() < 4


def test_a_small_image_of_the_format_keeps_its_bytes_and_of_another_its_size(tmp_path: Path) -> None:
    small = PHOTO.resize((60, 50))
    small.save(tmp_path / "a.jpg", quality=80)
    small.save(tmp_path / "b.png")
    assert of(tmp_path / "a.jpg") == (".jpg", (tmp_path / "a.jpg").read_bytes())
    assert values(of(tmp_path / "b.png")).shape == (3, 50, 60)
    as_png = of(tmp_path / "b.png", Encoding(320, "png"))
    assert as_png == (".png", (tmp_path / "b.png").read_bytes())


def test_orientation_is_applied_before_the_size_is_chosen(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    PHOTO.save(tmp_path / "a.jpg", exif=exif)
    assert values(of(tmp_path / "a.jpg")).shape == (3, 85, 64)


def test_gray_stays_gray_and_opacity_stays(tmp_path: Path) -> None:
    PHOTO.convert("L").save(tmp_path / "a.png")
    PHOTO.convert("RGBA").save(tmp_path / "b.png")
    assert of(tmp_path / "a.png").ending == ".jpg"
    assert values(of(tmp_path / "a.png")).shape == (1, 64, 85)
    found = of(tmp_path / "b.png")
    assert found.ending == ".png"
    assert values(found).shape == (4, 64, 85)


@pytest.mark.parametrize(
    ("dtype", "bands"),
    [
        ("uint8", 2),
        ("uint8", 5),
        ("uint16", 1),
        ("uint16", 5),
        ("int16", 1),
        ("int32", 2),
        ("float32", 5),
        ("float64", 1),
    ],
)
def test_values_of_small_deep_images_survive(tmp_path: Path, dtype: str, bands: int) -> None:
    array = (R.normal(size=(bands, 40, 50)) * 50 + 120).astype(dtype)
    options = {"planarconfig": "separate"} if bands > 1 else {}
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack", **options)
    found = of(tmp_path / "a.tif")
    assert found.ending == ".tif"
    read = values(found)
    assert read.dtype == array.dtype
    assert np.array_equal(read, array)
    assert found == of(tmp_path / "a.tif")  # the same bytes


def test_sixteen_bit_png_and_color_keep_their_meaning(tmp_path: Path) -> None:
    array = R.integers(0, 65536, (40, 50, 3), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb")
    again = open_all_channels(Bytes("it", of(tmp_path / "a.tif").data), READING)
    assert again.opened.is_color
    assert np.array_equal(again.own_values(None)[0], np.moveaxis(array, 2, 0))
    Image.fromarray(array[..., 0]).save(tmp_path / "b.png")
    assert np.array_equal(values(of(tmp_path / "b.png"))[0], array[..., 0])


def test_missing_pixels_are_not_mixed_in(tmp_path: Path) -> None:
    array = np.full((1, 128, 128), 500.0, np.float32)
    array[:, :, :64] = -9999
    tifffile.imwrite(tmp_path / "a.tif", array[0], extratags=[(42113, 2, 6, "-9999", True)])
    found = of(tmp_path / "a.tif", Encoding(32))
    file = open_all_channels(Bytes("it", found.data), READING)
    read, gone = file.own_values(None)
    assert file.nodata == -9999
    assert gone is not None
    assert gone[0, :, :15].all()
    assert not gone[0, :, 17:].any()
    assert set(np.unique(read)) == {-9999.0, 500.0}


def test_integers_never_become_nodata_by_resizing() -> None:
    array = np.zeros((1, 64, 64), np.int16)
    array[:, ::2] = 2
    array[:, :8] = -9999
    plane = shrunk(array, array == -9999, 1.0, (16, 16))  # between 0 and 2 lies the value that means nothing
    assert plane.values[0, 4:].tolist() == [[2] * 16] * 12
    assert (plane.values[0, :2] == 1).all()


def test_a_mask_without_a_value_gets_one_that_no_pixel_has() -> None:
    array = R.integers(0, 3, (1, 8, 8), dtype=np.uint8)
    gone = np.zeros(array.shape, bool)
    gone[0, 0, 0] = True
    plane = shrunk(array, gone, None, (8, 8))
    assert plane.nodata == 255
    assert plane.values[0, 0, 0] == 255
    assert np.array_equal(plane.values[~gone], array[~gone])


def test_pages_stay_images(tmp_path: Path) -> None:
    array = R.integers(0, 4000, (7, 40, 50), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack")
    found = Bytes("it", of(tmp_path / "a.tif").data)
    as_images = open_image(found, PixelReading(1, stack="images"))
    assert as_images.planes == 7
    assert np.array_equal(as_images.own_values(None, 3)[0][0], array[3])
    as_channels = open_image(found, PixelReading(7))
    assert np.array_equal(as_channels.own_values(None)[0], array)


def test_damage_is_found_also_where_bytes_would_be_kept(tmp_path: Path) -> None:
    PHOTO.resize((60, 50)).save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(UnreadableImageError, match=r"a\.jpg: .*truncated"):
        of(tmp_path / "a.jpg")


def test_what_a_format_cannot_hold_is_named(tmp_path: Path) -> None:
    Image.new("L", (70_000, 4)).save(tmp_path / "wide.png")
    with pytest.raises(UnreadableImageError, match=r"wide\.png: cannot be written"):
        of(tmp_path / "wide.png")

"""The file's own count of channels rules: nothing is made up, nothing is dropped without being asked."""

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from fcmae.data.images import UnreadableImageError, open_image, read_image
from fcmae.data.pixel_reading import PixelReading

R = np.random.default_rng(0)


def write(path: Path, channels: int, dtype: type = np.uint8, **options: object) -> np.ndarray:
    array = R.integers(0, 250, (20, 24, channels)).astype(dtype)
    photometric = "rgb" if channels > 2 else "minisblack"
    extra = {"extrasamples": ["unspecified"] * (channels - 3)} if channels > 3 else {}
    config = {"planarconfig": "contig"} if channels > 1 else {}
    tifffile.imwrite(path, array, **{"photometric": photometric, **config, **extra, **options})
    return array.transpose(2, 0, 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [2, 4, 5, 6])
def test_every_sample_of_a_tiff_arrives(tmp_path: Path, channels: int, dtype: type) -> None:
    array = write(tmp_path / "a.tif", channels, dtype)
    scale = 255 if dtype == np.uint8 else 65535
    image = read_image(tmp_path / "a.tif", channels)
    assert image.dtype == (torch.uint8 if dtype == np.uint8 else torch.float32)
    expected = torch.from_numpy(array if dtype == np.uint8 else array.astype(np.float32) / scale)
    torch.testing.assert_close(image, expected)
    file = open_image(tmp_path / "a.tif", channels)
    torch.testing.assert_close(file.crop((3, 4, 10, 12)), expected[:, 3:13, 4:16])


@pytest.mark.parametrize(("channels", "wanted"), [(5, 4), (6, 3), (4, 3), (2, 3), (3, 4), (3, 2), (1, 4), (1, 2)])
def test_another_count_is_an_error_with_both_numbers(tmp_path: Path, channels: int, wanted: int) -> None:
    write(tmp_path / "a.tif", channels)
    with pytest.raises(
        UnreadableImageError, match=rf"has {channels} channels?, but --model.in_chans is {wanted}.*--data.bands"
    ):
        read_image(tmp_path / "a.tif", wanted)


def test_an_extra_sample_is_dropped_only_if_it_is_opacity(tmp_path: Path) -> None:
    for kind in ("unassalpha", "assocalpha"):
        array = write(tmp_path / "a.tif", 4, extrasamples=[kind])
        if kind == "unassalpha":
            assert torch.equal(read_image(tmp_path / "a.tif", 4), torch.from_numpy(array))
            assert torch.equal(read_image(tmp_path / "a.tif", 3), torch.from_numpy(array[:3]))
    array = write(tmp_path / "deep.tif", 4, np.uint16, extrasamples=["unassalpha"])
    torch.testing.assert_close(read_image(tmp_path / "deep.tif", 3)[2] * 65535, torch.from_numpy(array[2]).float())
    write(tmp_path / "nir.tif", 4, extrasamples=["unspecified"])
    with pytest.raises(UnreadableImageError, match="has 4 channels"):
        read_image(tmp_path / "nir.tif", 3)


@pytest.mark.parametrize("suffix", ["tif", "npy"])
def test_bands_pick_and_order(tmp_path: Path, suffix: str) -> None:
    array = R.integers(0, 60000, (13, 20, 24), dtype=np.uint16)
    if suffix == "tif":
        tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack")
    else:
        np.save(tmp_path / "a.npy", array)
    image = read_image(tmp_path / f"a.{suffix}", PixelReading(3, bands=(4, 3, 2)))
    torch.testing.assert_close(image, torch.from_numpy(array[[3, 2, 1]].astype(np.float32) / 65535))
    with pytest.raises(UnreadableImageError, match=r"has 13 channels, but --data\.bands asks for band 14"):
        read_image(tmp_path / f"a.{suffix}", PixelReading(1, bands=(14,)))


def test_bands_of_a_photo(tmp_path: Path) -> None:
    rgb = R.integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", PixelReading(2, bands=(3, 1)))
    assert torch.equal(image, torch.from_numpy(rgb[..., [2, 0]]).permute(2, 0, 1))


def test_bands_must_be_as_many_as_the_channels() -> None:
    with pytest.raises(ValueError, match=r"bands must name one band per channel: model.in_chans is 3, got \[4, 3\]"):
        PixelReading(3, bands=(4, 3))
    with pytest.raises(ValueError, match="counted from 1"):
        PixelReading(1, bands=(0,))


def test_color_becomes_gray_as_pillow_weighs_it(tmp_path: Path) -> None:
    rgb = R.integers(0, 256, (20, 24, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(rgb).save(out, "PNG")
    (tmp_path / "a.png").write_bytes(out.getvalue())
    expected = np.array(Image.fromarray(rgb).convert("L"))
    assert torch.equal(read_image(tmp_path / "a.png", 1)[0], torch.from_numpy(expected))


def test_pages_of_a_stack(tmp_path: Path) -> None:
    """ZCYX: 12 channels, or 4 images of 3; one of which is drawn."""
    array = R.integers(0, 60000, (4, 3, 20, 24), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.ome.tif", array, photometric="minisblack", metadata={"axes": "ZCYX"})
    file = open_image(tmp_path / "a.ome.tif", 3)
    assert file.planes == 4
    for plane in range(4):
        expected = torch.from_numpy(array[plane].astype(np.float32) / 65535)[:, 2:12, 3:18]
        torch.testing.assert_close(file.crop((2, 3, 10, 15), plane=plane), expected)
    whole = open_image(tmp_path / "a.ome.tif", 12)
    assert whole.planes == 1
    torch.testing.assert_close(whole.decode(), torch.from_numpy(array.reshape(12, 20, 24).astype(np.float32) / 65535))
    picked = open_image(tmp_path / "a.ome.tif", PixelReading(2, bands=(3, 1)))
    torch.testing.assert_close(picked.decode()[0] * 65535, torch.from_numpy(array[0, 2]).float())


def test_plain_pages_as_images(tmp_path: Path) -> None:
    array = R.integers(0, 255, (6, 20, 24), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack")
    with pytest.raises(UnreadableImageError, match="has 6 channels"):
        open_image(tmp_path / "a.tif", 3)
    file = open_image(tmp_path / "a.tif", PixelReading(3, stack="images"))
    assert file.planes == 6
    assert torch.equal(file.crop((0, 0, 20, 24), plane=5), torch.from_numpy(array[5:].repeat(3, 0)))
    tifffile.imwrite(tmp_path / "b.tif", array, photometric="minisblack", truncate=True)  # one directory for all
    file = open_image(tmp_path / "b.tif", PixelReading(1, stack="images"))
    assert [int(file.crop((7, 9, 1, 1), plane=n)) for n in range(6)] == array[:, 7, 9].tolist()

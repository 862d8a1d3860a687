"""Every kind of image file: read as what it is, or refused with one line that names it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as TF

from fcmae.data.images import UnreadableImageError, open_image, read_image

RGB = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
GRAY16 = np.linspace(0, 65535, 30).round().astype(np.uint16).reshape(6, 5)


def chw(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.copy()).permute(2, 0, 1)


def test_rgb_is_read_as_it_is(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.dtype == torch.uint8
    assert torch.equal(image, chw(RGB))


def test_rgba_loses_its_alpha_and_keeps_it_for_four_channels(tmp_path: Path) -> None:
    rgba = np.dstack([RGB, np.full((6, 5), 128, np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert torch.equal(read_image(tmp_path / "a.png"), chw(RGB))
    assert torch.equal(read_image(tmp_path / "a.png", 4), chw(rgba))


def test_gray_is_repeated_and_color_becomes_gray(tmp_path: Path) -> None:
    Image.fromarray(RGB[..., 0]).save(tmp_path / "gray.png")
    assert torch.equal(read_image(tmp_path / "gray.png"), chw(RGB[..., :1].repeat(3, 2)))
    Image.fromarray(RGB).save(tmp_path / "color.png")
    luma = (RGB @ np.array([0.299, 0.587, 0.114])).round()
    assert (read_image(tmp_path / "color.png", 1)[0].numpy() - luma).max() <= 1


@pytest.mark.parametrize("transparency", [None, 0])
def test_palette(tmp_path: Path, transparency: int | None) -> None:
    image = Image.fromarray(RGB).quantize(16)
    options = {} if transparency is None else {"transparency": transparency}
    image.save(tmp_path / "a.png", **options)
    assert torch.equal(read_image(tmp_path / "a.png"), chw(np.array(image.convert("RGB"))))


def test_cmyk_jpeg(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), (250, 40, 20)).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    color = read_image(tmp_path / "a.jpg").float().mean((1, 2))
    assert (color - torch.tensor([250.0, 40, 20])).abs().max() < 4


def test_bilevel(tmp_path: Path) -> None:
    Image.fromarray(RGB[..., 0] > 128).save(tmp_path / "a.png")
    assert torch.equal(read_image(tmp_path / "a.png"), chw(((RGB[..., :1] > 128) * np.uint8(255)).repeat(3, 2)))


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bit_gray_keeps_its_depth(tmp_path: Path, name: str) -> None:
    """Pillow's own conversion to RGB clips at 255 and turns such images white."""
    Image.fromarray(GRAY16).save(tmp_path / name)
    image = read_image(tmp_path / name)
    assert image.dtype == torch.float32
    expected = torch.from_numpy(GRAY16 / 65535).float().expand(3, -1, -1)
    torch.testing.assert_close(image, expected)
    torch.testing.assert_close(read_image(tmp_path / name, 1), expected[:1])


def test_sixteen_bit_color_tiff(tmp_path: Path) -> None:
    color = RGB.astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "a.tif", color, photometric="rgb")
    torch.testing.assert_close(read_image(tmp_path / "a.tif"), chw(RGB).float() / 255)


@pytest.mark.parametrize("layout", ["chw", "hwc"])
@pytest.mark.parametrize("suffix", [".tif", ".npy"])
def test_many_channels(tmp_path: Path, layout: str, suffix: str) -> None:
    array = np.random.default_rng(0).integers(0, 65536, (7, 9, 11), dtype=np.uint16)
    saved = array if layout == "chw" else array.transpose(1, 2, 0)
    file = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(file, saved)
    else:
        tifffile.imwrite(file, saved, photometric="minisblack")
    torch.testing.assert_close(read_image(file, 7), torch.from_numpy(array / 65535).float())


def test_floating_point_images(tmp_path: Path) -> None:
    unit = np.random.default_rng(0).random((6, 5), dtype=np.float32)
    tifffile.imwrite(tmp_path / "unit.tif", unit)
    torch.testing.assert_close(read_image(tmp_path / "unit.tif", 1)[0], torch.from_numpy(unit))
    tifffile.imwrite(tmp_path / "wide.tif", unit * 3000 - 1000)
    wide = read_image(tmp_path / "wide.tif", 1)
    assert wide.min().item() == 0
    assert wide.max().item() == 1
    tifffile.imwrite(tmp_path / "nan.tif", np.full((4, 4), np.nan, np.float32))
    with pytest.raises(UnreadableImageError, match=r"nan\.tif: holds values that are not finite"):
        read_image(tmp_path / "nan.tif", 1)


def test_signed_and_wide_integers_are_stretched(tmp_path: Path) -> None:
    """CT values are negative too; nothing is clipped, and the scale does not jump with the type's size."""
    values = np.linspace(-1000, 3000, 30).round().reshape(6, 5)
    for dtype in (np.int16, np.int32, np.float64):
        tifffile.imwrite(tmp_path / "a.tif", values.astype(dtype))
        image = read_image(tmp_path / "a.tif", 1)[0]
        torch.testing.assert_close(image, torch.from_numpy((values + 1000) / 4000).float())


def test_one_pixel(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").flatten().tolist() == [1, 2, 3]


def test_orientation_from_exif(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    assert torch.equal(read_image(tmp_path / "a.png"), chw(np.rot90(RGB, -1)))


# red falls to the right, green downwards, blue both ways: whatever is turned or mirrored shows
_Y, _X = np.mgrid[:72, :96]
SMOOTH = Image.fromarray(np.stack([250 - 2 * _X, 250 - 3 * _Y, _X + _Y], axis=2).astype(np.uint8))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_are_what_pillow_decodes(tmp_path: Path, mode: str, progressive: bool) -> None:
    SMOOTH.convert(mode).save(tmp_path / "a.jpg", quality=95, progressive=progressive)
    expected = chw(np.array(Image.open(tmp_path / "a.jpg").convert("RGB"))).short()
    difference = (read_image(tmp_path / "a.jpg").short() - expected).abs()
    assert difference.max() <= 4  # two builds of one library; a color that is mistaken is far off
    assert difference.float().mean() < 0.5


@pytest.mark.parametrize("orientation", [None, 1, 3, 6, 8])
@pytest.mark.parametrize(("reduce", "factor"), [(0, 1), (1, 1), (2, 2), (3, 2), (4, 4), (9, 8)])
def test_jpegs_are_decoded_smaller_where_that_is_enough(
    tmp_path: Path, reduce: int, factor: int, orientation: int | None
) -> None:
    """The size is known before decoding, upright; a reduced image is the image, blurred by its own scaling."""
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    SMOOTH.save(tmp_path / "a.jpg", quality=95, exif=exif)
    file = open_image(tmp_path / "a.jpg")
    assert (file.height, file.width) == ((72, 96) if orientation in (None, 1, 3) else (96, 72))
    image = file.decode(reduce)
    assert image.shape == (3, -(-file.height // factor), -(-file.width // factor))
    full = read_image(tmp_path / "a.jpg")
    small = TF.resize(full, list(image.shape[1:]), antialias=True)
    assert (small.short() - image.short()).abs().float().mean() < 3


def _jpeg(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def _truncated(path: Path) -> None:
    _jpeg(path)
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(
    "make",
    [
        _truncated,
        lambda p: p.write_bytes(b""),
        lambda p: p.write_text("not an image"),
        lambda p: p.mkdir(),
        lambda p: p.write_bytes(b"\xff\xd8\xff\xe0" + b"\x00" * 50),
    ],
    ids=["truncated", "empty", "text", "folder", "header-only"],
)
def test_unreadable_files_are_named(tmp_path: Path, make: Callable[[Path], object]) -> None:
    file = tmp_path / "broken.jpg"
    make(file)
    with pytest.raises(UnreadableImageError, match=r"broken\.jpg: \S") as error:
        read_image(file)
    assert "\n" not in str(error.value)


def test_channels_that_do_not_fit(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    with pytest.raises(UnreadableImageError, match=r"has 3 channels, but --model.in_chans is 5; .* --data\.bands"):
        read_image(tmp_path / "a.png", 5)
    np.save(tmp_path / "a.npy", np.zeros((8, 9, 6), np.uint8))
    with pytest.raises(
        UnreadableImageError, match=r"has 6 channels, but --model.in_chans is 5; .* --data\.bands 1,2,3,4,5"
    ):
        read_image(tmp_path / "a.npy", 5)


def test_a_pickle_inside_npy_is_never_run(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UnreadableImageError, match="allow_pickle=False"):
        read_image(tmp_path / "a.npy")

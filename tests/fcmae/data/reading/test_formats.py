"""Every kind of file by its content: full depth, windows without the rest, the next reader where one fails."""

import io
import logging
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pillow_heif
import pytest
import tifffile
import torch
from PIL import Image

from fcmae.data.images import UnreadableImageError, open_image, read_image
from fcmae.data.pixel_reading import PixelReading
from fcmae.data.reading import pillow, tiff_segments
from fcmae.data.reading.codecs import jxl_size

R = np.random.default_rng(0)
RGB = R.integers(0, 256, (30, 45, 3), dtype=np.uint8)
DEEP = R.integers(0, 65536, (30, 45, 3), dtype=np.uint16)


def chw(array: np.ndarray) -> torch.Tensor:
    array = np.moveaxis(np.atleast_3d(array), 2, 0)
    return torch.from_numpy(array.copy() if array.dtype == np.uint8 else array.astype(np.float32) / 65535)


def by_pillow(image: np.ndarray, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, kind, **options)
    return out.getvalue()


def by_tifffile(array: np.ndarray, **options: object) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, array, **options)
    return out.getvalue()


LOSSLESS: dict[str, tuple[Callable[[], bytes], np.ndarray]] = {
    "16-bit color PNG": (lambda: imagecodecs.png_encode(DEEP), DEEP),
    "JPEG XL": (lambda: imagecodecs.jpegxl_encode(RGB, lossless=True), RGB),
    "16-bit JPEG XL": (lambda: imagecodecs.jpegxl_encode(DEEP, lossless=True), DEEP),
    "AVIF": (lambda: imagecodecs.avif_encode(RGB, level=100, pixelformat="444"), RGB),
    "JPEG 2000": (lambda: by_pillow(RGB, "JPEG2000", irreversible=False), RGB),
    "16-bit JPEG 2000": (lambda: imagecodecs.jpeg2k_encode(DEEP, level=0, reversible=True), DEEP),
    "JPEG 2000 codestream": (lambda: imagecodecs.jpeg2k_encode(RGB, codecformat="j2k", reversible=True), RGB),
    "JPEG 2000 in TIFF": (lambda: by_tifffile(RGB, compression="jpeg2000", photometric="rgb"), RGB),
    "WebP in TIFF": (
        lambda: by_tifffile(RGB, compression="webp", compressionargs={"lossless": True}, photometric="rgb"),
        RGB,
    ),
    "Zstandard in TIFF": (lambda: by_tifffile(RGB, compression="zstd"), RGB),
    "planar TIFF": (lambda: by_tifffile(np.moveaxis(DEEP, 2, 0), photometric="rgb", planarconfig="separate"), DEEP),
    "PNG": (lambda: by_pillow(RGB, "PNG"), RGB),
}


@pytest.mark.parametrize("ending", ["", ".jpg"])
@pytest.mark.parametrize("kind", LOSSLESS)
def test_a_file_is_what_it_holds(tmp_path: Path, kind: str, ending: str) -> None:
    make, expected = LOSSLESS[kind]
    (tmp_path / f"a{ending}").write_bytes(make())
    image = read_image(tmp_path / f"a{ending}")
    assert (image - chw(expected)).abs().max() <= (1 if "AVIF" in kind and image.dtype == torch.uint8 else 1e-6)


def test_ten_bits_of_avif_keep_their_depth(tmp_path: Path) -> None:
    levels = np.linspace(0, 1023, 30 * 45).astype(np.uint16).reshape(30, 45, 1).repeat(3, 2)
    (tmp_path / "a.avif").write_bytes(imagecodecs.avif_encode(levels, bitspersample=10, level=100, pixelformat="444"))
    image = read_image(tmp_path / "a.avif")
    assert (image - torch.from_numpy(levels.astype(np.float32) / 1023).permute(2, 0, 1)).abs().max() < 0.01
    assert len(image.unique()) > 300


def rotated_avif(data: bytes, quarters: int) -> bytes:
    """The one image of an AVIF file gets the property irot: counterclockwise, as ISO 23008-12 has it."""
    out, pixels = bytearray(data), data.find(b"mdat") + 4

    def grow(box: bytes, count: int) -> int:
        at = out.find(box) - 4
        size = int.from_bytes(out[at : at + 4], "big")
        out[at : at + 4] = (size + count).to_bytes(4, "big")
        return at + size

    properties, at = 0, data.find(b"ipco") + 4
    while at < data.find(b"ipco") - 4 + int.from_bytes(data[data.find(b"ipco") - 4 :][:4], "big"):
        properties, at = properties + 1, at + int.from_bytes(data[at : at + 4], "big")
    place = out.find(pixels.to_bytes(4, "big"), out.find(b"iloc"))
    out[place : place + 4] = (pixels + 10).to_bytes(4, "big")
    grow(b"meta", 10), grow(b"iprp", 10)
    end = grow(b"ipma", 1)
    out[out.find(b"ipma") + 14] += 1  # properties of the one item
    out[end:end] = bytes([0x80 | properties + 1])
    end = grow(b"ipco", 9)
    out[end:end] = (9).to_bytes(4, "big") + b"irot" + bytes([quarters])
    return bytes(out)


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_deep_avif_is_turned_as_its_boxes_say(tmp_path: Path, quarters: int) -> None:
    corner = np.zeros((32, 48, 3), np.uint16)
    corner[:10, :20] = 1023
    data = imagecodecs.avif_encode(corner, bitspersample=10, level=100, pixelformat="444")
    (tmp_path / "a.avif").write_bytes(rotated_avif(data, quarters))
    image = read_image(tmp_path / "a.avif")
    assert torch.equal(image > 0.5, chw(corner).rot90(quarters, (1, 2)) > 0)


def test_heic(tmp_path: Path) -> None:
    pillow_heif.register_heif_opener()
    smooth = np.full((32, 48, 3), (200, 90, 30), np.uint8)
    (tmp_path / "a").write_bytes(by_pillow(smooth, "HEIF"))
    assert (read_image(tmp_path / "a").short() - chw(smooth).short()).abs().max() < 6


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (30, 45), (256, 128), (1000, 700), (9, 3000), (40, 32)])
def test_the_size_of_a_jpeg_xl(shape: tuple[int, int]) -> None:
    assert jxl_size(imagecodecs.jpegxl_encode(np.zeros((*shape, 3), np.uint8))) == shape


LAYOUTS = {
    "strips": {},
    "strips of 7 rows": {"rowsperstrip": 7},
    "tiles": {"tile": (16, 32)},
    "compressed strips": {"rowsperstrip": 7, "compression": "zlib", "predictor": True},
    "compressed tiles": {"tile": (16, 32), "compression": "lzw"},
    "big-endian": {"byteorder": ">"},
    "big-endian tiles": {"byteorder": ">", "tile": (16, 32)},
    "separate planes": {"planarconfig": "separate", "tile": (16, 32), "compression": "zlib"},
    "separate strips": {"planarconfig": "separate", "rowsperstrip": 7},
    "BigTIFF": {"bigtiff": True, "tile": (32, 32)},
}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_window_is_a_part_of_the_image(tmp_path: Path, layout: str, dtype: type) -> None:
    array = R.integers(0, 250, (70, 90, 5)).astype(dtype)
    options = LAYOUTS[layout]
    if options.get("planarconfig") == "separate":
        tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(array, 2, 0).copy(), photometric="minisblack", **options)
    else:
        tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack", planarconfig="contig", **options)
    file = open_image(tmp_path / "a.tif", PixelReading(5, value_range=(0, 255)))
    expected = torch.from_numpy(array.astype(np.float32) / 255).permute(2, 0, 1)
    torch.testing.assert_close(file.decode(), expected)
    for top, left, height, width in ((0, 0, 1, 1), (69, 89, 1, 1), (10, 20, 30, 40), (15, 31, 18, 34), (0, 0, 70, 90)):
        part = pickle.loads(pickle.dumps(file)).crop((top, left, height, width))
        torch.testing.assert_close(part, expected[:, top : top + height, left : left + width])


def test_a_window_decodes_the_tiles_that_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = R.integers(0, 4000, (13, 320, 320), dtype=np.uint16)
    tifffile.imwrite(
        tmp_path / "a.tif", array, photometric="minisblack", planarconfig="separate", tile=(32, 32), compression="zlib"
    )
    decoded = []
    segment = tiff_segments._segment
    monkeypatch.setattr(tiff_segments, "_segment", lambda *args: decoded.append(args[2]) or segment(*args))
    open_image(tmp_path / "a.tif", 13).crop((40, 40, 40, 20))
    assert len(decoded) == 13 * 2  # two tiles of each band


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_a_deep_tiff(tmp_path: Path, orientation: int) -> None:
    """Turned as Pillow turns 8-bit images."""
    tags = [(274, 3, 1, orientation, True)]
    tifffile.imwrite(tmp_path / "deep.tif", RGB.astype(np.uint16), photometric="rgb", extratags=tags)
    tifffile.imwrite(tmp_path / "flat.tif", RGB, photometric="rgb", extratags=tags)
    deep = open_image(tmp_path / "deep.tif", PixelReading(3, value_range=(0, 255)))
    flat = read_image(tmp_path / "flat.tif").float() / 255
    assert (deep.height, deep.width) == tuple(flat.shape[1:])
    torch.testing.assert_close(deep.decode(), flat)


def test_white_is_zero(tmp_path: Path) -> None:
    values = np.array([[0, 65535], [1000, 5]], np.uint16).repeat(8, 0).repeat(8, 1)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="miniswhite")
    torch.testing.assert_close(read_image(tmp_path / "a.tif", 1), chw(65535 - values))


@pytest.mark.parametrize("name", ["stack", "strips", "bilevel", "tiles"])
def test_a_tiff_without_its_end_is_no_other_image(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    whole = {
        "stack": by_tifffile(R.integers(0, 60000, (3, 40, 50), dtype=np.uint16), photometric="minisblack"),
        "strips": by_tifffile(np.moveaxis(DEEP, 2, 0), photometric="minisblack", rowsperstrip=4),
        "bilevel": by_pillow(RGB[..., 0] > 128, "TIFF"),
        "tiles": by_tifffile(DEEP, tile=(16, 16), photometric="rgb", compression="zlib"),
    }[name]
    file = tmp_path / "a.tif"
    file.write_bytes(whole)
    in_chans = 1 if name == "bilevel" else 3
    image, refused = read_image(file, in_chans), 0
    with caplog.at_level(logging.DEBUG):
        for length in range(0, len(whole) - 1, max(1, len(whole) // 150)):
            file.write_bytes(whole[:length])
            try:
                same = torch.equal(read_image(file, in_chans), image)
            except UnreadableImageError:
                refused += 1
            else:  # all that is missing is a resolution or the like
                assert same
                assert length > len(whole) - 100
    assert refused >= 149
    assert not caplog.records  # a library's own lines would flood the log


@pytest.mark.parametrize("ending", ["png", "bmp", "gif", "jp2", "tif", "npy", "jxl", "webp", "jpg"])
def test_what_a_header_may_promise(tmp_path: Path, ending: str) -> None:
    """The limit holds before the pixels are decoded."""
    data = {
        "tif": lambda: by_tifffile(DEEP, photometric="rgb"),
        "jxl": lambda: imagecodecs.jpegxl_encode(RGB),
    }
    if ending == "npy":
        np.save(tmp_path / "a.npy", RGB)
    else:
        kinds = {"jp2": "JPEG2000", "jpg": "JPEG"}
        make = data.get(ending, lambda: by_pillow(RGB, kinds.get(ending, ending.upper())))
        (tmp_path / f"a.{ending}").write_bytes(make())
    read_image(tmp_path / f"a.{ending}", PixelReading(max_pixels=30 * 45 * 2))
    with pytest.raises(UnreadableImageError, match=r"limit of 500 pixels .* --data\.max_pixels"):
        read_image(tmp_path / f"a.{ending}", PixelReading(max_pixels=500))


def test_a_header_that_promises_the_impossible(tmp_path: Path) -> None:
    png = bytearray(by_pillow(RGB, "PNG"))
    png[16:24] = (16000).to_bytes(4, "big") * 2
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(png)
    with pytest.raises(UnreadableImageError, match=r"promises 768000000 bytes of pixels, the file holds \d+ bytes"):
        read_image(tmp_path / "a.png")


def test_pillows_own_limit_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    (tmp_path / "a.png").write_bytes(by_pillow(RGB, "PNG"))
    assert read_image(tmp_path / "a.png").shape == (3, 30, 45)
    assert pillow.Image.MAX_IMAGE_PIXELS == 100

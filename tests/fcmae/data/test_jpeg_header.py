"""A JPEG's size is read without Pillow where the header leaves nothing open, and decoded fast where it is ordinary."""

import io
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fcmae.data.images import UnreadableImageError, open_image, read_image
from fcmae.data.jpeg_header import Frame, read_frame
from fcmae.data.pixel_reading import PixelReading
from fcmae.data.reading import jpeg as jpeg_reader

PIXELS = np.random.default_rng(0).integers(0, 256, (37, 300, 3), dtype=np.uint8)
XMP = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def jpeg(mode: str = "RGB", **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(out, "JPEG", **options)
    return out.getvalue()


def with_segment(marker: int, content: bytes) -> bytes:
    """A JPEG with one more segment after its first two bytes."""
    return jpeg()[:2] + bytes([0xFF, marker]) + (2 + len(content)).to_bytes(2, "big") + content + jpeg()[2:]


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return jpeg(exif=tags)


def several_pictures() -> bytes:
    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, "MPO", save_all=True, append_images=[Image.fromarray(PIXELS)])
    return out.getvalue()


ORDINARY = {
    "color": jpeg(),
    "gray": jpeg("L"),
    "progressive": jpeg(progressive=True),
    "profile, comment": jpeg(subsampling=0, icc_profile=b"rgb" * 40_000, comment=b"\xff\xc0\x00\x11\x08 like a frame"),
    "restarts": jpeg(restart_marker_blocks=3, optimize=True),
    "Adobe": with_segment(0xEE, b"Adobe\0\x64\0\0\0\0\x01"),
    "no end": jpeg()[:-2],
}
LOOK_CLOSER = {
    "upright": exif(1),
    "turned": exif(6),
    "XMP": with_segment(0xE1, XMP),
    "several pictures": several_pictures(),
}
OTHERS = {
    "no scan": jpeg()[:200],
    "empty": b"",
    "start alone": b"\xff\xd8",
    "PNG": b"\x89PNG\r\n",
    "lossless": imagecodecs.jpeg8_encode(PIXELS, lossless=True),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_the_size_of_an_ordinary_one(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_frame(ORDINARY[name]) == Frame(37, 300, 1 if name == "gray" else 3, is_alone=True)
    if name == "no end":  # the header does not tell
        return
    (tmp_path / "a.jpg").write_bytes(ORDINARY[name])
    expected = np.array(Image.open(tmp_path / "a.jpg").convert("RGB"))
    monkeypatch.setattr(Image, "open", None)  # nor is Pillow needed for the pixels
    assert np.abs(read_image(tmp_path / "a.jpg").permute(1, 2, 0).numpy().astype(int) - expected).max() <= 4
    assert open_image(tmp_path / "a.jpg").decode(4).shape == (3, 10, 75)


@pytest.mark.parametrize("name", LOOK_CLOSER)
def test_where_pillow_must_look(name: str) -> None:
    assert read_frame(LOOK_CLOSER[name]) == Frame(37, 300, 3, is_alone=False)


@pytest.mark.parametrize("name", OTHERS)
def test_where_there_is_no_such_frame(name: str) -> None:
    assert read_frame(OTHERS[name]) is None


@pytest.mark.parametrize("in_chans", [1, 3])
@pytest.mark.parametrize("name", ["turned", "XMP"])
def test_what_the_file_says_of_its_orientation(name: str, in_chans: int, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(LOOK_CLOSER[name])
    file = open_image(tmp_path / "a.jpg", in_chans)
    assert (file.height, file.width) == (300, 37)
    assert file.decode().shape == (in_chans, 300, 37)
    assert file.decode(2).shape == (in_chans, 150, 19)


@pytest.mark.parametrize("reduce", [1, 2, 8])
def test_a_lossless_one_is_decoded_in_full(reduce: int, tmp_path: Path) -> None:
    """Libraries cannot decode it smaller: one refuses, another writes beyond its memory."""
    (tmp_path / "a.jpg").write_bytes(OTHERS["lossless"])
    assert torch.equal(open_image(tmp_path / "a.jpg").decode(reduce), torch.from_numpy(PIXELS).permute(2, 0, 1))


def test_without_simplejpeg_pillow_decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg())
    fast = [open_image(tmp_path / "a.jpg").decode(n) for n in (1, 2)]
    monkeypatch.setattr(jpeg_reader, "simplejpeg", None)
    for n, expected in zip((1, 2), fast, strict=True):
        pixels = open_image(tmp_path / "a.jpg").decode(n)
        assert pixels.shape == expected.shape
        assert (pixels.short() - expected.short()).abs().max() <= 4


@pytest.mark.parametrize("size", [(0, 300), (37, 0)])
def test_a_frame_without_pixels(size: tuple[int, int]) -> None:
    frame = jpeg().index(b"\xff\xc0")
    data = bytearray(jpeg())
    data[frame + 5 : frame + 9] = b"".join(length.to_bytes(2, "big") for length in size)
    assert read_frame(bytes(data)) is None


@given(st.data())
def test_damage_raises_nothing(data: st.DataObject) -> None:
    header = bytearray(jpeg()[:700])
    for _ in range(data.draw(st.integers(1, 8))):
        header[data.draw(st.integers(2, len(header) - 1))] = data.draw(st.integers(0, 255))
    frame = read_frame(bytes(header[: data.draw(st.integers(0, len(header)))]))
    assert frame is None or min(frame[:2]) > 0


def test_a_size_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg())
    assert open_image(tmp_path / "a.jpg").height == 37
    with pytest.raises(UnreadableImageError, match=r"37×300 pixels .* limit of 5000 pixels .* --data\.max_pixels"):
        open_image(tmp_path / "a.jpg", PixelReading(max_pixels=5000))

"""The size that is read from a JPEG's header without Pillow: the same, or none."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fcmae import images
from fcmae.images import UnreadableImageError, open_image, read_image
from fcmae.jpeg_header import plain_size

PIXELS = np.random.default_rng(0).integers(0, 256, (37, 300, 3), dtype=np.uint8)


def jpeg(mode: str = "RGB", **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(out, "JPEG", **options)
    return out.getvalue()


def with_segment(marker: int, content: bytes) -> bytes:
    """A JPEG with one more segment after its first two bytes."""
    return jpeg()[:2] + bytes([0xFF, marker]) + (2 + len(content)).to_bytes(2, "big") + content + jpeg()[2:]


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(exif=exif)


def _several() -> bytes:
    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, "MPO", save_all=True, append_images=[Image.fromarray(PIXELS)])
    return out.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        jpeg(),
        jpeg("L"),
        jpeg(progressive=True),
        jpeg(subsampling=0, icc_profile=b"colours" * 20_000, comment=b"\xff\xc0\x00\x11\x08 looks like a frame"),
        jpeg(restart_marker_blocks=3, optimize=True),
        with_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta/>"),
        with_segment(0xEE, b"Adobe\0\x64\0\0\0\0\x01"),
    ],
    ids=["colour", "grey", "progressive", "profile, comment", "restarts", "XMP", "Adobe"],
)
def test_the_size_of_an_ordinary_one(data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert plain_size(data) == (37, 300)
    (tmp_path / "a.jpg").write_bytes(data)
    expected = np.array(Image.open(tmp_path / "a.jpg").convert("RGB"))
    monkeypatch.setattr(images.Image, "open", None)  # nor is Pillow needed for the pixels
    assert np.abs(read_image(tmp_path / "a.jpg").permute(1, 2, 0).numpy().astype(int) - expected).max() <= 4


@pytest.mark.parametrize(
    "data",
    [_exif(1), _exif(6), _several(), jpeg("CMYK"), jpeg()[:-1], jpeg()[:200], b"", b"\xff\xd8", b"\x89PNG\r\n"],
    ids=["upright", "turned", "several pictures", "CMYK", "no end", "no scan", "empty", "start alone", "PNG"],
)
def test_what_someone_else_must_look_at(data: bytes) -> None:
    """All but the one that lacks its last byte, of which the header says nothing."""
    assert plain_size(data) == ((37, 300) if data == jpeg()[:-1] else None)


@pytest.mark.parametrize("size", [(0, 300), (37, 0)])
def test_a_frame_without_pixels(size: tuple[int, int]) -> None:
    frame = jpeg().index(b"\xff\xc0")
    data = bytearray(jpeg())
    data[frame + 5 : frame + 9] = b"".join(length.to_bytes(2, "big") for length in size)
    assert plain_size(bytes(data)) is None


@given(st.data())
def test_damage_raises_nothing(data: st.DataObject) -> None:
    header = bytearray(jpeg()[:700])
    for _ in range(data.draw(st.integers(1, 8))):
        header[data.draw(st.integers(2, len(header) - 1))] = data.draw(st.integers(0, 255))
    size = plain_size(bytes(header[: data.draw(st.integers(0, len(header)))]))
    assert size is None or min(size) > 0


def test_a_size_that_no_memory_holds_is_refused_as_pillow_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg())
    assert open_image(tmp_path / "a.jpg").height == 37
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    with pytest.raises(UnreadableImageError, match="exceeds limit of 10000 pixels"):
        open_image(tmp_path / "a.jpg")

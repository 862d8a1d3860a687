"""Files that have no ending or a wrong one are known by their first bytes, and read as what they are."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from fcmae.data.images import read_image
from fcmae.data.sources.first_bytes import ending_for, recognized

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
FORMATS = {
    ".jpg": "JPEG", ".png": "PNG", ".gif": "GIF", ".webp": "WEBP", ".tif": "TIFF", ".bmp": "BMP", ".ppm": "PPM",
    ".jp2": "JPEG2000", ".avif": "AVIF",
}  # fmt: skip


@pytest.mark.parametrize("ending", FORMATS)
def test_what_pillow_writes_is_recognized(tmp_path: Path, ending: str) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "x", FORMATS[ending])
    assert recognized(tmp_path / "x") == ending


def test_arrays_and_large_tiffs(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", PIXELS)
    assert recognized(tmp_path / "x.npy") == ".npy"
    for big in (False, True):
        for order in "<>":
            tifffile.imwrite(tmp_path / "x", PIXELS, bigtiff=big, byteorder=order)
            assert recognized(tmp_path / "x") == ".tif"


@pytest.mark.parametrize("head", [b"", b"BM, a German car", b"P6 is a road", b"GIF", b"RIFF1234WAVE", b"%PDF-1.7"])
def test_others_are_not(head: bytes) -> None:
    assert ending_for(head) is None


@pytest.mark.parametrize("name", ["x", "x.dat", "x.png", "x.tif", "x.npy", "x.jpg"])
def test_contents_decide_how_a_file_is_read(tmp_path: Path, name: str) -> None:
    """Sixteen bits, which Pillow would lose in a TIFF, and arrays, whatever they are called."""
    expected = torch.from_numpy(PIXELS).permute(2, 0, 1)
    Image.fromarray(PIXELS).save(tmp_path / name, "PNG")
    assert torch.equal(read_image(tmp_path / name), expected)
    np.save(tmp_path / "array.npy", PIXELS)
    (tmp_path / "array.npy").rename(tmp_path / name)
    assert torch.equal(read_image(tmp_path / name), expected)
    deep = PIXELS.astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / name, deep, photometric="rgb")
    assert torch.equal(read_image(tmp_path / name), expected.float() * 257 / 65535)

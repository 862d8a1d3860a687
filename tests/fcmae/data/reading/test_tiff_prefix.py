"""Of a deflated tile only the rows that a window needs are inflated; the values are those of the whole."""

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch

from fcmae.data.images import UnreadableImageError, open_image
from fcmae.data.pixel_reading import PixelReading
from fcmae.data.reading import tiff_segments

R = np.random.default_rng(0)
HW = (150, 200)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("predictor", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, np.int32])
@pytest.mark.parametrize("planar", [False, True])
def test_rows_of_a_window(tmp_path: Path, dtype: type, predictor: bool, planar: bool, byteorder: str) -> None:
    array = R.integers(0, 120, (*HW, 5)).astype(dtype)
    written = np.moveaxis(array, 2, 0).copy() if planar else array
    tifffile.imwrite(
        tmp_path / "a.tif", written, tile=(64, 96), photometric="minisblack", compression="zlib", predictor=predictor,
        planarconfig="separate" if planar else "contig", byteorder=byteorder,
    )  # fmt: skip
    file = open_image(tmp_path / "a.tif", PixelReading(5, value_range=(0, 255)))
    expected = torch.from_numpy(array.astype(np.float32) / 255).permute(2, 0, 1)
    for top, left, height, width in ((0, 0, 10, 10), (20, 30, 50, 100), (63, 95, 2, 2), (130, 150, 20, 50)):
        part = file.crop((top, left, height, width))
        torch.testing.assert_close(part, expected[:, top : top + height, left : left + width])


def write_tile(path: Path, cut: int = 0) -> np.ndarray:
    """One deflated tile whose last ``cut`` bytes are zero."""
    array = R.integers(0, 65536, (256, 256), dtype=np.uint16)
    stream = imagecodecs.zlib_encode(array.tobytes())
    stream = stream[: len(stream) - cut] + bytes(cut)
    tifffile.imwrite(
        path, iter([stream]), shape=array.shape, dtype=array.dtype, tile=(256, 256), photometric="minisblack",
        compression="zlib",
    )  # fmt: skip
    return array


def test_what_follows_is_not_inflated(tmp_path: Path) -> None:
    array = write_tile(tmp_path / "a.tif", cut=50_000)
    file = open_image(tmp_path / "a.tif", PixelReading(1, value_range=(0, 65535)))
    expected = torch.from_numpy(array.astype(np.float32) / 65535)
    torch.testing.assert_close(file.crop((0, 10, 100, 50))[0], expected[:100, 10:60])
    with pytest.raises(UnreadableImageError):
        file.crop((0, 0, 200, 50))
    with pytest.raises(UnreadableImageError):
        file.decode()


def test_a_wrong_checksum_of_a_whole_tile_is_noticed(tmp_path: Path) -> None:
    write_tile(tmp_path / "a.tif", cut=4)
    with pytest.raises(UnreadableImageError):
        open_image(tmp_path / "a.tif", 1).decode()


def test_without_the_library_the_whole_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = write_tile(tmp_path / "a.tif")
    monkeypatch.setattr(imagecodecs.ZLIBNG, "available", False)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        rows = tiff_segments.read(tiff.pages.first, tiff_segments.Window(0, 0, 20, 30))
    np.testing.assert_array_equal(rows[0], array[:20, :30])

"""OME-Zarr: a folder or a zip file is one image; windows read the chunks that they touch."""

import multiprocessing
import sys
from pathlib import Path

import numpy as np
import pytest

from fcmae.data.images import ImageFile, UnreadableImageError, open_image
from fcmae.data.pixel_reading import PixelReading
from tests.fcmae.data.reading.makers import ome_zarr, zipped_ome_zarr

TCZYX = np.random.default_rng(0).integers(0, 60000, (2, 3, 4, 72, 92)).astype(np.uint16)
READING = PixelReading(3, value_range=(0, 65535))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_axes_are_channels_and_planes(tmp_path: Path, version: str) -> None:
    ome_zarr(tmp_path / "a.zarr", TCZYX, "tczyx", version)
    file = open_image(tmp_path / "a.zarr", READING)
    assert (file.opened.channels, file.planes, file.height, file.width) == (3, 8, 72, 92)
    for plane in range(8):
        t, z = divmod(plane, 4)
        assert np.array_equal(file.own_values(None, plane)[0], TCZYX[t, :, z])
    np.testing.assert_allclose(file.crop((30, 5, 10, 50), plane=7), TCZYX[1, :, 3, 30:40, 5:55] / 65535, atol=1e-6)
    whole = open_image(tmp_path / "a.zarr", PixelReading(24, value_range=(0, 65535)))
    assert np.array_equal(whole.own_values(None)[0], TCZYX.reshape(24, 72, 92))


def test_levels(tmp_path: Path) -> None:
    ome_zarr(tmp_path / "a.zarr", TCZYX[0], "czyx", "0.5", levels=3)
    for level in range(3):
        file = open_image(tmp_path / "a.zarr", PixelReading(3, level=level))
        expected = TCZYX[0, :, 2, :: 2**level, :: 2**level]
        assert file.opened.reductions == (1, 2, 4)[: 3 - level]
        assert np.array_equal(file.own_values(None, 2)[0], expected)
        assert np.array_equal(file.opened.decode(file.opened.reductions[-1], None, 2), TCZYX[0, :, 2, ::4, ::4])
    with pytest.raises(UnreadableImageError, match=r"has 3 levels, 0 to 2, but --data.level is 3"):
        open_image(tmp_path / "a.zarr", PixelReading(3, level=3))


def test_only_the_chunks_of_the_window_are_read(tmp_path: Path) -> None:
    ome_zarr(tmp_path / "a.zarr", TCZYX[0, :, 0], "cyx")
    for chunk in (tmp_path / "a.zarr/0").rglob("*"):  # chunks are called channel.row.column
        if chunk.is_file() and not chunk.name.startswith(".z") and not chunk.name.endswith(("0.0", "0/0")):
            chunk.write_bytes(b"damaged")
    file = open_image(tmp_path / "a.zarr", READING)
    np.testing.assert_allclose(file.crop((2, 3, 30, 29)), TCZYX[0, :, 0, 2:32, 3:32] / 65535, atol=1e-6)
    with pytest.raises(UnreadableImageError):
        file.crop((2, 3, 31, 29))


def _sum(file: ImageFile, queue: "multiprocessing.Queue[float]") -> None:
    queue.put(float(file.crop((0, 0, 40, 40)).sum()))


def test_a_zip_file_and_forked_processes(tmp_path: Path) -> None:
    zipped_ome_zarr(tmp_path / "a.ome.zarr", TCZYX[0, :, 0], "cyx")
    file = open_image(tmp_path / "a.ome.zarr", READING)
    expected = float(file.crop((0, 0, 40, 40)).sum())  # opens the file and zarr's own thread before the fork
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[float] = context.Queue()
    process = context.Process(target=_sum, args=(file, queue))
    process.start()
    assert queue.get(timeout=60) == expected
    process.join()


def test_what_is_no_image_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(UnreadableImageError, match="is not a regular file"):
        open_image(tmp_path / "empty.zarr")
    ome_zarr(tmp_path / "a.zarr", TCZYX[0, 0], "zyx")
    stated = tmp_path / "a.zarr/.zattrs"
    stated.write_text(stated.read_text().replace('"z"', '"y"'))
    with pytest.raises(UnreadableImageError, match="there must be y and x, each once"):
        open_image(tmp_path / "a.zarr", 1)
    monkeypatch.setitem(sys.modules, "zarr", None)
    ome_zarr_again = tmp_path / "b.ome.zarr"
    ome_zarr_again.write_bytes(b"PK\x03\x04")
    with pytest.raises(UnreadableImageError, match=r'OME-Zarr needs another package: pip install "fcmae\[zarr\]"'):
        open_image(ome_zarr_again)

"""Slides: the scan at any of its levels, by windows; label, macro image and thumbnail are no images."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage.data import astronaut

from fcmae.data.folder import image_files
from fcmae.data.images import UnreadableImageError, open_image, read_image
from fcmae.data.pixel_reading import PixelReading
from fcmae.data.reading import tiff_segments
from tests.fcmae.data.reading.makers import ndpi, scn, svs

SCAN = astronaut()[:265, :331]


def pyramid(scan: np.ndarray) -> bytes:
    """A plain TIFF with overviews."""
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as writer:
        for step in (1, 2, 4):
            part = np.ascontiguousarray(scan[::step, ::step])
            writer.write(part, tile=(64, 64), photometric="rgb", subfiletype=int(step > 1), metadata=None)
    return out.getvalue()


def jpeg2000(scan: np.ndarray) -> bytes:
    """Aperio's YCbCr, which nothing in the codestream declares."""
    return svs(np.asarray(Image.fromarray(scan).convert("YCbCr")), compression="aperio_jp2000_ycbc")


@pytest.mark.parametrize(
    ("ending", "make", "levels"),
    [("svs", svs, 3), ("svs", jpeg2000, 3), ("ndpi", ndpi, 2), ("scn", scn, 2), ("tif", pyramid, 3)],
)
def test_a_level_of_the_scan(tmp_path: Path, ending: str, make: Callable[[np.ndarray], bytes], levels: int) -> None:
    path = tmp_path / f"a.{ending}"
    path.write_bytes(make(SCAN))
    assert image_files(tmp_path) == [path]
    for level in range(levels):
        scan = SCAN[:: 2**level, :: 2**level].transpose(2, 0, 1)
        file = open_image(path, PixelReading(3, level=level))
        whole = file.decode()
        assert whole.shape == scan.shape
        assert np.abs(whole.numpy().astype(int) - scan).mean() < 5  # the macro image and the label are black
        top, left = scan.shape[1] - 41, scan.shape[2] - 50
        assert np.array_equal(file.crop((top, left, 41, 50)), whole[:, top:, left:])
    with pytest.raises(UnreadableImageError, match=rf"has {levels} levels, 0 to {levels - 1}, but --data.level is 7"):
        open_image(path, PixelReading(3, level=7))


@pytest.mark.parametrize(("ending", "make"), [("svs", svs), ("ndpi", ndpi)])
def test_a_window_decodes_the_tiles_that_it_needs(
    tmp_path: Path, ending: str, make: Callable[[np.ndarray], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"a.{ending}").write_bytes(make(SCAN))
    file, seen = open_image(tmp_path / f"a.{ending}"), []
    real = tiff_segments._segment
    monkeypatch.setattr(tiff_segments, "_segment", lambda *args: seen.append(args[2]) or real(*args))
    file.crop((0, 0, 8, 40))
    assert seen == [0]


def test_one_resolution_is_every_level(tmp_path: Path) -> None:
    Image.fromarray(SCAN).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", SCAN)
    for name in ("a.png", "a.tif"):
        assert np.array_equal(read_image(tmp_path / name, PixelReading(3, level=2)), SCAN.transpose(2, 0, 1))


def test_slides_that_are_cut_off(tmp_path: Path) -> None:
    for name, data in (("a.svs", svs(SCAN)), ("b.ndpi", ndpi(SCAN))):
        (tmp_path / name).write_bytes(data[: len(data) // 2])
    for name in ("a.svs", "b.ndpi"):
        with pytest.raises(UnreadableImageError, match="truncated"):
            open_image(tmp_path / name)

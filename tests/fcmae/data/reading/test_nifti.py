"""NIfTI: slices along an anatomical plane, as DICOM shows them, whatever the file's own order of axes."""

import gzip
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from fcmae.data.images import UnreadableImageError, open_image, read_image
from fcmae.data.pixel_reading import PixelReading, Slices
from tests.fcmae.data.reading.makers import nifti

RAS = np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7)
"""To Right, Anterior, Superior."""
SEEN = {
    "axial": RAS[::-1, ::-1].transpose(2, 1, 0),  # Right is on the left, Anterior above
    "coronal": RAS[::-1, :, ::-1].transpose(1, 2, 0),
    "sagittal": RAS[:, ::-1, ::-1].transpose(0, 2, 1),
}
RANGE = (0.0, 1000.0)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("slices", list(SEEN))
@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAR", "IPL"])
@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_slices_do_not_depend_on_the_order_of_axes(tmp_path: Path, slices: Slices, codes: str, ending: str) -> None:
    image = nibabel.Nifti1Image(RAS, np.eye(4))
    turn = nibabel.orientations.axcodes2ornt(codes)
    image = image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(np.eye(4)), turn))
    data = image.to_bytes()
    file = write(tmp_path / f"a.{ending}", gzip.compress(data) if ending == "nii.gz" else data)
    opened = open_image(file, PixelReading(1, value_range=RANGE, slices=slices))
    assert opened.planes == len(SEEN[slices])
    for plane, expected in enumerate(SEEN[slices]):
        found, gone = opened.own_values(None, plane)
        assert gone is None
        assert np.array_equal(found[0], expected)
    part = opened.crop((1, 2, 3, 2), plane=1)[0]
    np.testing.assert_allclose(part, SEEN[slices][1, 1:4, 2:4] / RANGE[1], atol=1e-6)


def test_slope_and_intercept(tmp_path: Path) -> None:
    file = write(tmp_path / "a.nii", nifti(RAS, scl_slope=0.5, scl_inter=-3))
    opened = open_image(file, 1)
    assert opened.opened.dtype == np.float32
    np.testing.assert_allclose(opened.own_values(None, 2)[0][0], SEEN["axial"][2] * 0.5 - 3)


def test_a_fourth_axis_is_channels_if_they_fit(tmp_path: Path) -> None:
    four = np.stack([RAS, RAS + 1000, RAS + 2000], axis=3)
    file = write(tmp_path / "a.nii", nifti(four))
    as_channels = open_image(file, PixelReading(3, value_range=RANGE))
    assert (as_channels.opened.channels, as_channels.planes) == (3, 7)
    assert np.array_equal(
        as_channels.own_values(None, 1)[0], SEEN["axial"][1] + np.array([0, 1000, 2000])[:, None, None]
    )
    images = open_image(file, PixelReading(1, value_range=RANGE))
    assert (images.opened.channels, images.planes) == (1, 21)
    assert np.array_equal(images.own_values(None, 7 + 1)[0][0], SEEN["axial"][1] + 1000)
    banded = open_image(file, PixelReading(1, bands=(3,)))
    assert np.array_equal(banded.own_values(None, 1)[0][0], SEEN["axial"][1] + 2000)


def test_slices_as_channels(tmp_path: Path) -> None:
    file = write(tmp_path / "a.nii", nifti(RAS))
    opened = open_image(file, PixelReading(7, stack="channels"))
    assert np.array_equal(opened.own_values(None)[0], SEEN["axial"])


def test_color_and_flat_volumes(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (5, 6, 2, 3), np.uint8)
    stored = rgb.view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    found = read_image(write(tmp_path / "a.nii", nifti(stored)))
    assert np.array_equal(found, rgb[::-1, ::-1, 0].transpose(2, 1, 0))
    assert read_image(write(tmp_path / "b.nii", nifti(RAS[:, :, 0])), 1).shape == (1, 6, 5)


def test_what_cannot_be_read_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = nifti(RAS)
    cases = {
        "cut.nii": (whole[:-1], "truncated: its volume reaches beyond"),
        "cut.nii.gz": (gzip.compress(whole)[:-40], "Compressed file ended"),
        "head.nii": (whole[:348], "truncated"),
        "other.gz": (gzip.compress(b"no volume"), "a gzip file that holds no NIfTI"),
        "huge.nii.gz": (gzip.compress(whole[:42] + b"\xff\x7f" * 3 + whole[48:]), "is more than the limit"),
        "complex.nii": (nifti(RAS.astype(np.complex64)), "unsupported dtype complex64"),
    }
    for name, (data, reason) in cases.items():
        with pytest.raises(UnreadableImageError, match=reason):
            open_image(write(tmp_path / name, data), 1)
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(UnreadableImageError, match=r'NIfTI needs another package: pip install "fcmae\[nifti\]"'):
        open_image(write(tmp_path / "a.nii", whole), 1)

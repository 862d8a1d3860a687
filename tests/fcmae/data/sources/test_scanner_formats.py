"""DICOM, OME-Zarr and slides among the files of a folder."""

import gzip
import logging
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from pydicom.uid import (
    EnhancedSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    MediaStorageDirectoryStorage,
    SegmentationStorage,
)

from fcmae.data.folder import image_files, training_images
from fcmae.data.images import open_image
from fcmae.data.pixel_reading import PixelReading
from fcmae.data.sources.digest import digest
from tests.fcmae.data.reading.makers import dicom, nifti, ome_zarr
from tests.fcmae.data.sources.packed import make_tar, make_zip

GRAY = np.arange(64, dtype=np.uint8).reshape(8, 8)


def test_dicom_objects_without_an_image_are_passed_over_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "IM0001").write_bytes(dicom(GRAY))
    (tmp_path / "b.DCM").write_bytes(dicom(GRAY))
    kinds = (
        MediaStorageDirectoryStorage, EnhancedSRStorage, GrayscaleSoftcopyPresentationStateStorage, SegmentationStorage,
    )  # fmt: skip
    for number, kind in enumerate(kinds):
        (tmp_path / f"other{number}{'.dcm' * (number % 2)}").write_bytes(dicom(GRAY, sop_class=kind))
    (tmp_path / "brain").write_bytes(nifti(GRAY[..., None]))
    with caplog.at_level(logging.INFO):
        assert [path.name for path in image_files(tmp_path)] == ["b.DCM", "brain", "IM0001"]
    assert "4 DICOM objects without an image" in caplog.text


@pytest.mark.parametrize("kind", ["tar", "stored zip", "deflated zip"])
def test_the_same_pixels_in_archives(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a folder: whole images and windows, each frame, slice and level."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    random, folder = np.random.default_rng(0), tmp_path / "set"
    folder.mkdir()
    frames, volume = random.integers(0, 4096, (2, 3, 40, 30), dtype=np.uint16)
    (folder / "ct.dcm").write_bytes(dicom(frames))
    (folder / "brain.nii").write_bytes(nifti(volume.astype(np.int16)))
    (folder / "small.nii.gz").write_bytes(gzip.compress(nifti(volume.astype(np.int16))))
    scan = random.integers(0, 256, (96, 80, 3), dtype=np.uint8)
    with tifffile.TiffWriter(folder / "slide.svs") as slide:
        slide.write(scan, photometric="rgb", tile=(32, 32), subifds=1)
        slide.write(scan[::4, ::4], photometric="rgb", tile=(32, 32), subfiletype=1)
    names = sorted(path.name for path in folder.iterdir())
    method = zipfile.ZIP_STORED if "stored" in kind else zipfile.ZIP_DEFLATED
    packed = (
        make_tar(tmp_path / "a.tar", folder) if kind == "tar" else make_zip(tmp_path / "a.zip", folder, method=method)
    )
    plain, images = training_images(folder), training_images(packed)
    assert sorted(images.names) == sorted(plain.names) == names
    for name, image, path in zip(images.names, images, plain, strict=True):
        for slices in ("axial", "sagittal"):
            reading = PixelReading(3, stack="images", slices=slices, value_range=(0, 4096))
            file, expected = open_image(image, reading), open_image(path, reading)
            assert (file.height, file.width, file.planes) == (expected.height, expected.width, expected.planes), name
            assert torch.equal(file.decode(), expected.decode())
            assert len(expected.decode().unique()) > 100
            for plane in range(file.planes):
                assert torch.equal(file.crop((3, 1, 20, 2), 1, plane), expected.crop((3, 1, 20, 2), 1, plane))
        assert image.region() is None or kind != "deflated zip"  # type: ignore[union-attr]


def test_a_zarr_folder_is_one_image(tmp_path: Path) -> None:
    ome_zarr(tmp_path / "set/a.zarr", GRAY, "yx")
    ome_zarr(tmp_path / "set/plate.zarr/A/1/0", GRAY, "yx", "0.5")
    ome_zarr(tmp_path / "set/plate.zarr/A/1/1", GRAY, "yx", "0.5")
    ome_zarr(tmp_path / "set/a.zarr/labels/cells", GRAY, "yx")
    names = ["a.zarr", "plate.zarr/A/1/0", "plate.zarr/A/1/1"]
    assert list(training_images(tmp_path / "set").names) == names
    assert list(training_images(tmp_path / "set/a.zarr").names) == ["a.zarr"]
    assert list(training_images(str(tmp_path / "set/*.zarr")).names) == names
    (tmp_path / "list.txt").write_text("set/a.zarr\n")
    listed = training_images(tmp_path / "list.txt")
    assert list(listed) == [tmp_path / "set/a.zarr"]
    before = digest(listed)
    metadata = tmp_path / "set/a.zarr/.zattrs"
    metadata.write_text(metadata.read_text() + " ")
    assert digest(training_images(tmp_path / "list.txt")) != before

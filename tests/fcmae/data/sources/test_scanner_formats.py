"""DICOM, OME-Zarr and slides among the files of a folder."""

import logging
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import (
    EnhancedSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    MediaStorageDirectoryStorage,
    SegmentationStorage,
)

from fcmae.data.folder import image_files, training_images
from fcmae.data.sources.digest import digest
from tests.fcmae.data.reading.makers import dicom, nifti, ome_zarr

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

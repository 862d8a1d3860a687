"""A resumed run notices other images: other names, another order, other pixels under the same names."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from fcmae.data.sources.digest import difference, digest
from fcmae.data.sources.files import ImageFiles, collect


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a/1.npy", "a/2.npy", "b/1.npy"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "set" / name, np.random.default_rng(len(name)).integers(0, 255, (30, 30, 3), dtype=np.uint8))
    return tmp_path / "set"


def compared(before: str, images: ImageFiles) -> tuple[str, bool] | None:
    return difference(before, digest(images), images)


def test_the_same_set_wherever_it_lies(folder: Path) -> None:
    before = digest(collect(folder))
    assert compared(before, collect(folder)) is None
    folder.rename(folder.with_name("moved"))
    assert compared(before, collect(folder.with_name("moved"))) is None


def test_other_dates_alone_are_a_copy(folder: Path) -> None:
    before = digest(collect(folder))
    os.utime(folder / "a/1.npy", (0, 0))
    what, changes = compared(before, collect(folder))  # type: ignore[misc]
    assert "other dates" in what
    assert not changes


def test_other_pixels_of_the_same_size(folder: Path) -> None:
    """Also where the dates were kept."""
    before, file = digest(collect(folder)), folder / "a/1.npy"
    found = file.stat()
    np.save(file, np.zeros((30, 30, 3), np.uint8))
    assert file.stat().st_size == found.st_size
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert compared(before, collect(folder)) == ("other contents under the same names", True)


def test_another_size_names_and_order(folder: Path) -> None:
    images = collect(folder)
    before = digest(images)
    assert compared(before, images.subset([1, 0, 2])) == ("other names or another order", True)
    (folder / "a/1.npy").write_bytes(b"longer or shorter")
    assert compared(before, collect(folder)) == ("other contents under the same names", True)
    (folder / "a/1.npy").rename(folder / "b/2.npy")
    assert compared(before, collect(folder)) == ("other names or another order", True)


def test_checkpoints_of_the_first_version(folder: Path) -> None:
    """Theirs is of the names alone; the very first have none."""
    images = collect(folder)
    before = hashlib.sha256(b"1.npy\n2.npy\n1.npy").hexdigest()
    assert compared(before, images) is None
    assert compared("", images) is None
    assert compared("2 damaged", images) == ("other names or another order", True)
    assert compared(before, images.subset([1, 0, 2])) == ("other names or another order", True)

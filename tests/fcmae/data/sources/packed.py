"""A folder of small images of every kind of reader, and the same as archives."""

import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image


def folder_of_images(folder: Path) -> Path:
    """Eight images in two class folders, whose natural order is not that of the alphabet; PNG, JPEG, TIFF, .npy."""
    random = np.random.default_rng(0)
    for n, name in enumerate(("cat/1.png", "cat/2.jpg", "cat/10.png", "dog/3.tif", "dog/b.npy", "dog/é.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 255, (40 + n, 50, 3), dtype=np.uint8)
        if name.endswith("npy"):
            np.save(folder / name, pixels)
        elif name.endswith("tif"):
            tifffile.imwrite(folder / name, pixels, photometric="rgb", tile=(16, 16))
        else:
            Image.fromarray(pixels).save(folder / name)
    return folder


def members_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def make_tar(file: Path, folder: Path, names: Sequence[str] | None = None, format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(file, "w", format=format) as tar:
        for name in members_of(folder) if names is None else names:
            tar.add(folder / name, name)
    return file


def make_zip(file: Path, folder: Path, names: Sequence[str] | None = None, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(file, "w", method) as archive:
        for name in members_of(folder) if names is None else names:
            archive.write(folder / name, name)
    return file

"""Images that are no files of their own: every reader returns the same pixels for bytes, and for a part of a file."""

import pickle
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from fcmae.data.images import UnreadableImageError, open_image
from fcmae.data.pixel_reading import PixelReading
from fcmae.data.stored import Region, Stored


@dataclass(frozen=True)
class Part(Stored):
    """A part of a file; with ``is_mapped`` False its bytes alone."""

    file: Path
    offset: int
    size: int
    is_mapped: bool = True

    def __str__(self) -> str:
        return f"{self.file.name}/inner"

    @property
    def name(self) -> str:
        return "inner"

    def read_bytes(self) -> bytes:
        return self.file.read_bytes()[self.offset : self.offset + self.size]

    def open(self, _mode: str = "rb") -> BinaryIO:
        return BytesIO(self.read_bytes())

    def region(self) -> Region | None:
        return Region(str(self.file), self.offset, self.size) if self.is_mapped else None


def _written(folder: Path) -> list[Path]:
    random = np.random.default_rng(0)
    color = random.integers(0, 255, (90, 70, 3), dtype=np.uint8)
    deep = random.integers(0, 4000, (90, 70, 3), dtype=np.uint16)
    for ending in ("png", "jpg", "webp"):
        Image.fromarray(color).save(folder / f"color.{ending}")
    tifffile.imwrite(folder / "pillow.tif", color, photometric="rgb")
    tifffile.imwrite(folder / "raw.tif", deep, photometric="rgb")
    tifffile.imwrite(folder / "tiles.tif", deep, photometric="rgb", tile=(32, 32), compression="zlib")
    np.save(folder / "deep.npy", deep)
    np.save(folder / "columns.npy", np.asfortranarray(deep))
    return sorted(folder.iterdir())


@pytest.mark.parametrize("is_mapped", [True, False])
def test_the_same_pixels_as_from_a_file(tmp_path: Path, is_mapped: bool) -> None:
    reading = PixelReading(3, value_range=(0, 4000, 0, 4000, 0, 4000))
    for file in _written(tmp_path):
        data = file.read_bytes()
        (tmp_path / "whole.bin").write_bytes(b"before" * 77 + data + b"after" * 9)
        part = Part(tmp_path / "whole.bin", 6 * 77, len(data), is_mapped)
        ours, plain = open_image(part, reading), open_image(file, reading)
        assert ours.opened.windowed == plain.opened.windowed
        ours = pickle.loads(pickle.dumps(ours))
        crop = 11, 7, 40, 50
        assert torch.equal(ours.crop(crop), plain.crop(crop)), file.name
        assert torch.equal(ours.decode(), plain.decode()), file.name


@pytest.mark.parametrize("is_mapped", [True, False])
def test_what_lies_behind_a_truncated_image_is_none_of_it(tmp_path: Path, is_mapped: bool) -> None:
    for file in _written(tmp_path):
        data = file.read_bytes()
        (tmp_path / "whole.bin").write_bytes(data)
        part = Part(tmp_path / "whole.bin", 0, len(data) // 2, is_mapped)
        with pytest.raises(UnreadableImageError, match=r"^whole\.bin/inner: "):
            open_image(part).decode()

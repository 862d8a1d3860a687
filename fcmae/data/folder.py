"""Image sources: a folder, or the photos that ship with scikit-image and scikit-learn."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

from timm.data.readers.reader_image_folder import find_images_and_targets

from fcmae.data.images import EXTENSIONS
from fcmae.errors import UserError

T = TypeVar("T")

# (package, its photos) in training order, with the textures spread out
PHOTOGRAPHS = (
    ("skimage.data", "astronaut.png brick.png camera.png cell.png chelsea.png clock_motion.png coffee.png coins.png"),
    ("skimage.data", "grass.png"),
    ("sklearn.datasets.images", "flower.jpg"),
    ("skimage.data", "gravel.png"),
    ("sklearn.datasets.images", "china.jpg"),
    ("skimage.data", "hubble_deep_field.jpg motorcycle_left.png ihc.png rocket.jpg moon.png retina.jpg"),
)


def embedded_photographs() -> list[Path]:
    """The photos that ship with scikit-image and scikit-learn. Nothing is downloaded."""
    return [Path(str(files(package) / name)) for package, names in PHOTOGRAPHS for name in names.split()]


def image_files(folder: str | Path, leave_out: Path | None = None) -> list[Path]:
    """Every image file in a folder and its subfolders, in natural order of the paths.

    ``leave_out`` is a run folder. If it lies inside, its pictures are excluded.

    Raises:
        UserError: no such folder, or no file in it with the ending of an image.
    """
    if not Path(folder).is_dir():
        what = "is a file, not a folder" if Path(folder).exists() else "does not exist"
        raise UserError(f"--data.path {folder} {what}; give a folder of images")
    found = [Path(path) for path, _ in find_images_and_targets(str(folder), types=EXTENSIONS)[0]]
    # skip hidden files and folders: ._a.jpg, .thumbnails/
    found = [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if leave_out is not None:
        found = [path for path in found if not path.resolve().is_relative_to(leave_out.resolve())]
    if not found:
        raise UserError(
            f"--data.path {folder} holds no images; looked in it and its subfolders for {' '.join(sorted(EXTENSIONS))}"
        )
    return found


def evenly_spaced(items: Sequence[T], count: int) -> list[T]:
    """``count`` evenly spaced items (all if there are fewer), starting with the first."""
    count = min(count, len(items))
    return [items[n * len(items) // count] for n in range(count)]


def images_to_look_at(folder: str | None, count: int) -> list[Path]:
    """``count`` evenly spaced images of a folder, or of the embedded photos; raises like :func:`image_files`."""
    return evenly_spaced(embedded_photographs() if folder is None else image_files(folder), count)

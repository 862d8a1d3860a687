"""Image sources: folders, globs and lists of paths, or the photos that ship with scikit-image and scikit-learn."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from fcmae.data.sources.files import ImageFiles, PathLike, collect
from fcmae.data.sources.image_set import ImageSet
from fcmae.data.stored import ImageRef
from fcmae.data.stores.access import Access

T = TypeVar("T")

# (folder of a package, its photos) in training order, with the textures spread out
PHOTOGRAPHS = (
    ("skimage/data", "astronaut.png brick.png camera.png cell.png chelsea.png clock_motion.png coffee.png coins.png"),
    ("skimage/data", "grass.png"),
    ("sklearn/datasets/images", "flower.jpg"),
    ("skimage/data", "gravel.png"),
    ("sklearn/datasets/images", "china.jpg"),
    ("skimage/data", "hubble_deep_field.jpg motorcycle_left.png ihc.png rocket.jpg moon.png retina.jpg"),
)


def embedded_photographs() -> list[Path]:
    """The photos that ship with scikit-image and scikit-learn. Nothing is downloaded, and neither is imported."""
    return [_installed(folder) / name for folder, names in PHOTOGRAPHS for name in names.split()]


def _installed(folder: str) -> Path:
    package, _, inside = folder.partition("/")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    return Path(spec.origin).parent / inside


def image_files(source: PathLike | Sequence[PathLike], leave_out: Path | None = None) -> list[ImageRef]:
    """Every image of a source: a folder with its subfolders in natural order of the paths, a glob, a list.

    Run folders inside are left out; ``leave_out`` is one that may have no files yet. See
    :func:`fcmae.data.sources.files.collect`, which also says what each is called.

    Raises:
        UserError: no such source, or no image in it.
    """
    return list(collect(source, leave_out=leave_out))


def training_images(
    source: PathLike | Sequence[PathLike] | None, leave_out: Path | None = None, access: Access | None = None
) -> ImageSet:
    """The images of ``--data.path``, None: the bundled photos; raises like :func:`image_files`."""
    if source is not None:
        return collect(source, leave_out=leave_out, access=access)
    photos = embedded_photographs()
    found = [os.stat(photo) for photo in photos]
    return ImageFiles(photos, [photo.name for photo in photos], [(one.st_size, one.st_mtime_ns) for one in found])


def evenly_spaced(items: Sequence[T], count: int) -> list[T]:
    """``count`` evenly spaced items (all if there are fewer), starting with the first."""
    count = min(count, len(items))
    return [items[n * len(items) // count] for n in range(count)]


def equal_shares(sizes: Sequence[int], count: int) -> list[int]:
    """How many to take of groups of these sizes: ``count`` in all, as equal as the sizes allow."""
    shares = [0] * len(sizes)
    left, open_groups = min(count, sum(sizes)), [n for n, size in enumerate(sizes) if size]
    while left:
        each = max(1, left // len(open_groups))
        for n in evenly_spaced(open_groups, left // each):
            taken = min(each, sizes[n] - shares[n])
            shares[n] += taken
            left -= taken
        open_groups = [n for n in open_groups if shares[n] < sizes[n]]
    return shares


def images_to_look_at(
    source: PathLike | Sequence[PathLike] | None, count: int, access: Access | None = None
) -> list[ImageRef]:
    """``count`` images of a source, or of the bundled photos; raises like :func:`image_files`.

    The same number from each subfolder (class) as far as its size allows, evenly spaced.
    """
    images = training_images(source, access=access)
    classes: dict[str, list[int]] = {}
    for place, name in enumerate(images.names):
        classes.setdefault(name.rpartition(os.sep)[0], []).append(place)
    shares = equal_shares([len(places) for places in classes.values()], count)
    chosen = [evenly_spaced(places, share) for places, share in zip(classes.values(), shares, strict=True) if share]
    return [images[place] for place in sorted(place for some in chosen for place in some)]

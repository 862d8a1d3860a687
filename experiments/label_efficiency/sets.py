"""Two real data sets that package registries hold, as folders of classes with a fixed split.

- elpv: 2,624 photographs of solar cells, gray, 300×300, defective or not (pip install elpv-dataset; CC BY-NC-SA 4.0:
  for experiments, not to be redistributed). Defective: a labeled probability above one half. A quarter is for testing.
- fashion_mnist: 70,000 gray images of 28×28, ten classes (Debian package dataset-fashion-mnist), with its own split.
"""

import gzip
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from fcmae.data.labeled import stratified_split
from fcmae.errors import UserError

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # where the Debian package puts it
CLOTHES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot",
)  # fmt: skip
TEST_SHARE = 0.25


def elpv(folder: Path) -> Path:
    """Make the folder from the installed package, unless it is there: train/ and test/ with a subfolder for each class.

    Raises:
        UserError: the package is not installed.
    """
    if folder.exists():
        return folder
    package = find_spec("elpv_dataset")
    if package is None or package.origin is None:
        raise UserError("elpv needs a package: pip install elpv-dataset")
    source = Path(package.origin).parent / "data"
    rows = [line.split() for line in (source / "labels.csv").read_text().splitlines()]
    is_defective = np.array([float(probability) > 0.5 for _, probability, _ in rows])
    kinds = np.array([kind == "poly" for _, _, kind in rows])
    train, test = stratified_split(2 * is_defective + kinds, TEST_SHARE, seed=0)
    part = making(folder)
    for split, places in (("train", train), ("test", test)):
        for place in places:
            link = part / split / ("defective" if is_defective[place] else "intact") / Path(rows[place][0]).name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(source / rows[place][0])
    part.rename(folder)
    return folder


def fashion_mnist(folder: Path, source: Path = FASHION_MNIST) -> Path:
    """Make the folder from the four files of Zalando's data set, unless it is there: train/ and test/, as PNGs.

    Raises:
        UserError: a file is missing.
    """
    if folder.exists():
        return folder
    arrays = {}
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        file = source / f"{name}-ubyte.gz"
        if not file.exists():
            raise UserError(f"{file} is missing: apt-get install dataset-fashion-mnist")
        arrays[name] = _idx(gzip.decompress(file.read_bytes()))
    part = making(folder)
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = arrays[f"{prefix}-images-idx3"], arrays[f"{prefix}-labels-idx1"]
        for name in CLOTHES:
            (part / split / name).mkdir(parents=True)
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            Image.fromarray(image).save(part / split / CLOTHES[label] / f"{number:05}.png")
    part.rename(folder)
    return folder


def making(folder: Path) -> Path:
    """A folder beside, to be renamed when all of it is there: what is half made is never taken for a set."""
    part = folder.with_name(f"{folder.name}.part-{os.getpid()}")
    part.mkdir(parents=True)
    return part


def _idx(content: bytes) -> np.ndarray:
    """Unsigned bytes in the IDX format: 2 zeros, the type 8, the number of axes, a big-endian int32 for each axis."""
    axes = content[3]
    if content[:3] != b"\0\0\x08":
        raise UserError("not an IDX file of unsigned bytes")
    shape = np.frombuffer(content, ">i4", axes, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)

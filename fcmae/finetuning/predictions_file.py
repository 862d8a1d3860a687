"""Tables of predictions and of features: CSV, Parquet or .npz."""

import csv
import glob
import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fcmae.data.stores.urls import is_url, local_path
from fcmae.errors import UserError
from fcmae.files import identity, replacing, write_text

TABLES, ARRAYS, PARQUET = (".csv",), (".npz",), (".parquet",)
DIGITS = 6


def check_name(file: Path, flag: str, endings: Sequence[str], overwrite: bool) -> None:
    """UserError for another ending, a folder, or a file that is there and may not be replaced."""
    if file.suffix.lower() not in endings:
        raise UserError(f"{flag} {file} must end in {' or '.join(endings)}")
    if file.suffix.lower() in PARQUET:
        _pyarrow(flag)
    if file.is_dir():
        raise UserError(f"{flag} {file} is a folder; give a file")
    if file.exists() and not overwrite:
        raise UserError(f"{flag} {file} exists; give another, or --overwrite")


def check_apart(output: Path, features: Path) -> None:
    """UserError if both are one file, of which the second would replace the first, or one is the other's folder."""
    one, other = output.resolve(), features.resolve()
    if one == other or one in other.parents or other in one.parents:
        raise UserError(f"--output {output} and --features {features} exclude each other; give two files")


def check_no_source(file: Path, flag: str, images: str | Sequence[str]) -> None:
    """UserError if the file is one of the sources, such as a list, which it would replace."""
    if not file.exists():
        return
    for source in map(local_path, [images] if isinstance(images, str) else images):
        if not is_url(source) and identity(file) in map(identity, (source, *glob.iglob(source, recursive=True))):
            raise UserError(f"{flag} {file} is one of the IMAGES that are read; give another file")


def check_path_column(file: Path, flag: str, names: Sequence[str], instead: str) -> None:
    """UserError if Parquet, whose text is UTF-8, cannot hold the names of the images."""
    if file.suffix.lower() not in PARQUET:
        return
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{flag} {file}: Parquet cannot hold the name {os.fsencode(name)!r}, which is not UTF-8; rename the "
                f"file, or take {instead}"
            ) from None


def write_predictions(
    file: Path, names: Sequence[str], labels: Sequence[str], classes: Sequence[str], probabilities_NC: Tensor
) -> None:
    """A row for each image: path, label(s), and the probability of every class."""
    rows = probabilities_NC.numpy().astype(np.float64).round(DIGITS)
    columns = _columns(classes)
    if file.suffix.lower() in PARQUET:
        found: dict[str, Any] = {"path": list(names), "label": list(labels)}
        _write_parquet(file, found | {name: rows[:, n] for n, name in enumerate(columns)})
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label", *columns])
    for name, label, row in zip(names, labels, rows, strict=True):
        writer.writerow([name, label, *(f"{p:.{DIGITS}g}" for p in row)])
    write_text(file, text.getvalue())


def _columns(classes: Sequence[str]) -> list[str]:
    """A name for the probabilities of each class; of two classes of one name, such as ImageNet's cranes, the second
    gets a number."""
    seen = Counter[str]()
    names = []
    for name in classes:
        seen[name] += 1
        names.append(f"p_{name}" if seen[name] == 1 else f"p_{name} ({seen[name]})")
    return names


def write_features(file: Path, names: Sequence[str], features_NC: Tensor) -> None:
    """.npz with ``path`` [N] and ``features`` float32 [N, C], or Parquet with a list of numbers in each row."""
    array = features_NC.numpy().astype(np.float32)
    if file.suffix.lower() in PARQUET:
        _write_parquet(file, {"path": list(names), "features": list(array)})
        return
    with replacing(file) as temporary, temporary.open("wb") as opened:
        np.savez_compressed(opened, path=np.array(names), features=array)


def _write_parquet(file: Path, columns: dict[str, Any]) -> None:
    pyarrow = _pyarrow("--output")
    from pyarrow import parquet

    with replacing(file) as temporary:
        parquet.write_table(pyarrow.table(columns), temporary)


def _pyarrow(flag: str) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            f"{flag}: Parquet needs pyarrow; pip install 'fcmae[parquet]', or give another ending"
        ) from None
    return pyarrow

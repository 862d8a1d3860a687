"""Images as rows of a table, and as samples of training."""

from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from fcmae.config import DataConfig
from fcmae.data.samples import PretrainDataset
from fcmae.data.sources.files import collect
from fcmae.data.sources.image_set import ImageSet
from fcmae.models import ModelConfig

MODEL = ModelConfig(img_size=32, stem_stride=1)


def dataset(images: ImageSet) -> PretrainDataset:
    return PretrainDataset(images, DataConfig(path="x"), MODEL, 0.6, 0)


def table_of(folder: Path, file: Path, names: list[str] | None = None, **columns: object) -> Path:
    """A Parquet file of the images of a folder in groups of four, as ``datasets`` writes it."""
    chosen = names or list(collect(folder).names)
    rows = [{"bytes": (folder / name).read_bytes(), "path": Path(name).name} for name in chosen]
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table({"image": rows, **columns}), file, row_group_size=4)
    return file

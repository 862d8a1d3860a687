"""Weights in several files, with an index that says which tensor is in which."""

import re
from pathlib import Path

from fcmae.errors import UserError
from fcmae.weights.formats.base import read_json
from fcmae.weights.place import INDEX

SHARD = re.compile(r"(.+)-\d+-of-\d+(\.\w+)")


def index_of(shard: Path) -> Path | None:
    """The index beside a file that is a shard by its name; None if there is none."""
    match = SHARD.fullmatch(shard.name)
    index = shard.with_name(f"{match[1]}{match[2]}{INDEX}") if match else None
    return index if index is not None and index.is_file() else None


def indexed_shards(index: Path) -> list[Path]:
    """The files that an index names (``model.safetensors.index.json``), each once.

    Raises:
        UserError: no index, a file that is missing, or one outside the index's folder.
    """
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise UserError(f"{index} cannot be read: expected an object with a weight_map")
    names = sorted({str(name) for name in places.values()})
    for name in names:
        if name != Path(name).name:
            raise UserError(f"{index} names {name!r}, which is not a file of its own folder")
        if not (index.parent / name).is_file():
            raise UserError(f"{index.parent / name} is missing, which {index.name} names")
    return [index.parent / name for name in names]

"""Which folders are OME-Zarr images: one image each, however many files it has."""

import json
import os
from pathlib import Path
from typing import Any

from fcmae.data.endings import EXTENSIONS, ending_of

ENDING = ".zarr"
ZIPPED = (".zarr.zip", ".ozx")
METADATA = ("zarr.json", ".zattrs")
LARGEST = 2**24
"""Bytes of metadata that are parsed at most."""


def metadata_of(folder: str | Path) -> str | None:
    """The file that makes a folder an OME-Zarr image; None if it is none."""
    for name in METADATA:
        path = os.path.join(folder, name)
        try:
            if os.path.getsize(path) < LARGEST:
                stated = json.loads(Path(path).read_bytes())
                if multiscales(stated.get("attributes", {}) if name == "zarr.json" else stated):
                    return path
        except (OSError, ValueError, AttributeError):
            continue
    return None


def multiscales(attributes: Any) -> Any:
    """The pyramids that attributes of version 0.5, or of an older one, describe."""
    return (attributes.get("ome") or {}).get("multiscales") or attributes.get("multiscales")


def is_inside_zarr(folder: str) -> bool:
    """Whether a folder is called .zarr, or lies in one that is: only these are looked into."""
    return any(part.lower().endswith(ENDING) for part in Path(folder).parts)


def zarr_of(name: str) -> str | None:
    """The OME-Zarr image that a file in an archive or behind a URL is, or is a part of, by its name; None: of none."""
    name = name.rstrip("/")
    if name.lower().endswith(ZIPPED):
        return name
    end = f"{name.lower()}/".find(f"{ENDING}/")
    inside = name[: end + len(ENDING)]
    return None if end < 0 or (inside != name and ending_of(name) in EXTENSIONS) else inside

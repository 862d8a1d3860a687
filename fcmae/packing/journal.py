"""``pack.json``: what a folder of shards was made of, and how far; a process that was killed goes on from there."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fcmae.errors import UserError
from fcmae.files import write_text

JOURNAL, LOCK, DAMAGED, CLASSES = "pack.json", ".pack.lock", "damaged.txt", "classes.txt"
TEMPORARY = f".new-{JOURNAL}"
"""Left by a process that was killed before it had written anything else."""
VERSION = 1


@dataclass(frozen=True)
class Shard:
    """A shard that is complete."""

    file: str
    images: int
    bytes: int
    end: int
    """Images of the source up to here, those that are damaged among them, are in this shard or an earlier one."""
    damaged: list[list[str]] = field(default_factory=list)
    """Name and reason of those that are left out."""


@dataclass
class Journal:
    """The contents of pack.json."""

    settings: dict[str, Any]
    """What the bytes of the shards depend on."""
    source: str
    """A digest of the images."""
    images: int
    """Of the source."""
    shards: list[Shard] = field(default_factory=list)
    complete: bool = False
    version: int = VERSION

    @property
    def end(self) -> int:
        """Images of the source that are done."""
        return self.shards[-1].end if self.shards else 0

    def write(self, folder: Path) -> None:
        """Replace pack.json."""
        write_text(folder / JOURNAL, json.dumps(asdict(self), indent=1) + "\n")

    def drop_lost(self, folder: Path) -> None:
        """Forget shards from the first on that is gone or has another length."""
        for number, shard in enumerate(self.shards):
            file = folder / shard.file
            if shard.images and (not file.is_file() or file.stat().st_size != shard.bytes):
                self.shards, self.complete = self.shards[:number], False
                return


def open_folder(folder: Path) -> Journal | None:
    """The journal of a folder; None: it is not there, or empty.

    Raises:
        UserError: it holds anything else.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"DST {folder} is a file; give a folder")
    file = folder / JOURNAL
    if file.is_file():
        return _read(file)
    others = sorted(set(os.listdir(folder)) - {LOCK, TEMPORARY}) if folder.exists() else []
    if others:
        raise UserError(f"DST {folder} holds other files ({', '.join(others[:3])}); give a new or an empty folder")
    return None


def _read(file: Path) -> Journal:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values["version"] != VERSION:
            raise ValueError(f"version {values['version']}")
        return Journal(**values | {"shards": [Shard(**one) for one in values["shards"]]})
    except (ValueError, TypeError, LookupError) as error:
        raise UserError(f"{file} was not written by fcmae pack, or is damaged ({error}); give another DST") from None

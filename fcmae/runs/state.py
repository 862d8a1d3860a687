"""Training progress, as state.json of a checkpoint holds it."""

import json
import math
import zlib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

LARGEST = 2**53  # of a count; larger ones are damage


@dataclass(frozen=True)
class TrainState:
    """Training progress, without weights and optimizer state."""

    step: int
    """Optimizer steps done."""
    effective_batch: int
    """Images per step; must not change on resuming, because the sample stream would shift."""
    samples_per_epoch: int
    """Samples per epoch of the stream; a different number changes the order of samples."""
    images_digest: str = ""
    """Digest of the image names, in order."""
    pending_losses: list[float] = field(default_factory=list)
    """Losses of the steps since the last line of metrics.jsonl."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The run's settings, nested as in config.yaml, which users edit. Empty: written by an older version."""
    checksums: dict[str, int] = field(default_factory=dict, compare=False)
    """CRC-32 of the checkpoint's other files, by their path in it. Empty: written by an older version."""


def checksum(file: Path) -> int:
    """CRC-32 of a file's contents; a gigabyte takes about a second."""
    found = 0
    with file.open("rb") as opened:
        while part := opened.read(1 << 20):
            found = zlib.crc32(part, found)
    return found


def damaged_file(folder: Path, state: TrainState) -> Path | None:
    """The first file of a checkpoint folder that has other contents than were written; missing ones are passed over."""
    files = [(folder / name, expected) for name, expected in state.checksums.items()]
    return next((file for file, expected in files if file.is_file() and checksum(file) != expected), None)


def write_state(file: Path, state: TrainState) -> None:
    """Write a new file; :func:`read_state` reads it."""
    file.write_text(json.dumps(asdict(state)) + "\n", encoding="utf-8")


def read_state(file: Path) -> TrainState:
    """Read what :func:`write_state` wrote; keys of later versions are passed over.

    Raises:
        ValueError: it is damaged.
        OSError: it cannot be opened.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("too many brackets") from None
    if not isinstance(values, dict):
        raise ValueError(f"expected an object, got {str(values)[:40]!r}")
    known = {one.name: values[one.name] for one in fields(TrainState) if one.name in values}
    for name, least in (("step", 0), ("effective_batch", 1), ("samples_per_epoch", 1)):
        if name not in known:
            raise ValueError(f"it has no {name}")
        if type(known[name]) is not int or not least <= known[name] < LARGEST:
            raise ValueError(f"{name} is {str(known[name])[:40]!r}, expected a whole number of at least {least}")
    if not isinstance(known.get("images_digest", ""), str):
        raise ValueError("images_digest is not text")
    if not isinstance(known.get("settings", {}), dict):
        raise ValueError("settings is not an object")
    sums = known.get("checksums", {})
    if not isinstance(sums, dict) or not all(type(one) is int for one in sums.values()):
        raise ValueError("checksums is not an object of whole numbers")
    losses = known.get("pending_losses", [])
    if not isinstance(losses, list) or not all(map(_is_finite, losses)):
        raise ValueError("pending_losses is not a list of finite numbers")
    return TrainState(**known)


def _is_finite(value: object) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond the range of float64
        return False

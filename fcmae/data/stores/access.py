"""How sources are read that are not plain files: by URL, and tables. The options of ``data.*`` of the same names."""

import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fcmae.data.stores.cache import Cache

TIMEOUT, CACHE_SIZE = 30.0, "50GB"


def bytes_of(text: str, name: str = "cache_size") -> int:
    """``50GB`` → 50,000,000,000; ``name`` is for the message.

    Raises:
        ValueError: no number with a unit.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?\s*", text.upper())
    if found is None or (found[3] and not found[2]):
        raise ValueError(f"{name} must be a size such as 50GB, 500MB or 0, got {text!r}")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** (" KMGT".index(found[2] or " ")))


def default_cache_dir() -> Path:
    """``fcmae`` in the user's folder of caches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fcmae"


@dataclass(frozen=True)
class Access:
    """Settings of all stores and tables. Picklable, for worker processes."""

    cache_dir: str | None = None
    """None: :func:`default_cache_dir`."""
    cache_size: str = CACHE_SIZE
    timeout: float = TIMEOUT
    """Seconds without an answer."""
    column: str | None = None
    """Of a table: that of the images; None: found by its type and name."""
    label_column: str | None = None
    """Of a table: that of the labels; None: found by its name."""
    split: str | None = None
    """Of a dataset of several: a word in the names of its files."""
    all_splits: bool = False
    """Of a dataset of the hub of which no split is named: all, and not only train."""

    @property
    def of_tables(self) -> str:
        """What is set that only tables have, as an option: ``--data.split train``; empty if nothing is."""
        for name in ("column", "label_column", "split"):
            if (value := getattr(self, name)) is not None:
                return f"--data.{name} {value}"
        return ""

    @cached_property
    def cache(self) -> Cache:
        """The cache in that folder."""
        return Cache(Path(self.cache_dir) if self.cache_dir else default_cache_dir(), bytes_of(self.cache_size))

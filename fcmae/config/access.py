"""Settings of the commands that read images once: how URLs and tables of images are read."""

from dataclasses import dataclass, fields

from fcmae.data.stores.access import CACHE_SIZE, TIMEOUT, Access, bytes_of


@dataclass(frozen=True)
class AccessConfig:
    """How URLs and tables of images are read, as fcmae pretrain does it."""

    column: str | None = None
    """Column of images in Parquet and Arrow files: the bytes of image files, or their paths. Unset: found by its type
    and name."""
    split: str | None = None
    """Split of a data set of Parquet or Arrow files, told by their names, as train. Unset: all; of hf:owner/name train,
    if it has one."""
    cache_dir: str | None = None
    """Folder for what is read by URL or from Parquet. Unset: ~/.cache/fcmae."""
    cache_size: str = CACHE_SIZE
    """Largest size of cache_dir, as 50GB; what was used least recently is deleted. 0: keep nothing."""
    timeout: float = TIMEOUT
    """Seconds to wait for a store that does not answer."""

    def __post_init__(self) -> None:
        if not 0 < self.timeout < float("inf"):
            raise ValueError(f"timeout must be above 0 seconds, got {self.timeout:g}")
        bytes_of(self.cache_size)

    @property
    def flags(self) -> list[str]:
        """What is set, as flags of ``fcmae pretrain``: names and values in turn."""
        found = [(one.name, getattr(self, one.name)) for one in fields(self) if getattr(self, one.name) != one.default]
        return [text for name, value in found for text in (f"--data.{name}", str(value))]

    @property
    def access(self) -> Access:
        """The same, as :func:`fcmae.data.sources.files.collect` takes it."""
        return Access(self.cache_dir, self.cache_size, self.timeout, self.column, split=self.split)

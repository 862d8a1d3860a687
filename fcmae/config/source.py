"""Where images are, and how URLs and tables are read: settings that commands share."""

from dataclasses import dataclass, fields

from fcmae.data.stores.access import CACHE_SIZE, TIMEOUT, Access, bytes_of


@dataclass(frozen=True)
class PathConfig:
    """Where the images are. A command that takes something else declares ``path`` again."""

    path: tuple[str, ...] | str | None = None
    """Images: a folder, nested or flat, labeled or not; a glob in quotes; .tar or .zip archives, as
    shards-{000..127}.tar; Parquet or Arrow files; a .txt, .csv or .tsv list of paths; any of these by URL (https, s3,
    gs, hf), or hf:owner/name; or several, as a,b. Unset: the photos that ship with scikit-image and scikit-learn."""

    def check_path(self) -> None:
        """ValueError for a path that is empty."""
        if self.path in ("", ()) or (isinstance(self.path, tuple) and "" in self.path):
            raise ValueError("path is empty; give a folder of images")


@dataclass(frozen=True)
class AccessConfig:
    """How URLs and tables are read."""

    column: str | None = None
    """Column of images in Parquet and Arrow files: the bytes of image files, or their paths. Unset: found by its type
    and name."""
    split: str | None = None
    """Split of a data set of Parquet or Arrow files, told by their names, as train. Unset: all; of hf:owner/name train,
    if it has one."""
    cache_dir: str | None = None
    """Folder for what is read by URL or from Parquet. Unset: ~/.cache/fcmae. Several runs may share it."""
    cache_size: str = CACHE_SIZE
    """Largest size of cache_dir, as 50GB; what was used least recently is deleted. 0: keep nothing."""
    timeout: float = TIMEOUT
    """Seconds to wait for a store that does not answer. After four tries an image is skipped as unreadable; if nothing
    of the store answers, the run stops and can be resumed."""

    def check_access(self) -> None:
        """ValueError for a size or time that is none."""
        if not 0 < self.timeout < float("inf"):
            raise ValueError(f"timeout must be above 0 seconds and finite, got {self.timeout:g}")
        bytes_of(self.cache_size)

    @property
    def access(self) -> Access:
        """What readers take."""
        labels = getattr(self, "label_column", None)
        return Access(self.cache_dir, self.cache_size, self.timeout, self.column, labels, self.split)


@dataclass(frozen=True)
class SourceAccessConfig(AccessConfig):
    """How URLs and tables are read, for a command whose images are a positional argument."""

    def __post_init__(self) -> None:
        self.check_access()

    @property
    def flags(self) -> list[str]:
        """What is set, as flags of ``fcmae pretrain``: names and values in turn."""
        found = [(one.name, getattr(self, one.name)) for one in fields(self) if getattr(self, one.name) != one.default]
        return [text for name, value in found for text in (f"--data.{name}", str(value))]

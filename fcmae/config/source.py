"""Where images are, and how URLs and tables are read: settings that commands share."""

from dataclasses import dataclass, fields

from fcmae.config.checks import check_least
from fcmae.data.pixel_reading import MAX_PIXELS, NUMBERS, PixelReading, Slices, Stack
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
        """ValueError for a size or time that is none, and for options of tables without a path."""
        if getattr(self, "path", ()) is None and (unused := self.access.of_tables):
            raise ValueError(f"{unused.removeprefix('--data.')} is for Parquet and Arrow files; path is not set")
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
    """How URLs and tables are read."""

    def __post_init__(self) -> None:
        self.check_access()

    @property
    def flags(self) -> list[str]:
        """What is set of these, as flags of ``fcmae pretrain``: names and values in turn."""
        found = [
            (one.name, getattr(self, one.name))
            for one in fields(AccessConfig)
            if getattr(self, one.name) != one.default
        ]
        return [text for name, value in found for text in (f"--data.{name}", str(value))]


@dataclass(frozen=True)
class OwnPixelsConfig(SourceAccessConfig):
    """How files, URLs and tables are read. The pixels are the files' own: no network says which channels it takes."""

    nodata: float | None = None
    """Value of pixels without data, which are not mixed into others; NaN and a TIFF's tag always count."""
    level: int = 0
    """Level of a pyramid that stands for the image; 0: the full resolution."""
    slices: Slices = "axial"
    """How NIfTI volumes are cut into slices."""
    dicom_window: bool = True
    """DICOM files as their window shows them, in 8 bits; false: their numbers, Hounsfield units in CT."""
    max_pixels: int = MAX_PIXELS
    """Largest image to decode, in pixels; larger ones count as damaged."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, max_pixels=1, level=0)

    def reading(self, stack: Stack) -> PixelReading:
        """What readers take; ``stack`` is as for ``--data.stack``."""
        return PixelReading(
            value_range=None if self.dicom_window else NUMBERS, nodata=self.nodata, stack=stack,
            max_pixels=self.max_pixels, slices=self.slices, level=self.level,
        )  # fmt: skip

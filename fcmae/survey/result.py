"""What a survey found, as plain data. Without imports that take seconds."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ChannelSummary:
    """One channel of the sample, in the files' own values."""

    minimum: float
    maximum: float
    mean: float
    std: float
    nodata_share: float
    """Share of the values that are missing."""


@dataclass(frozen=True)
class StatsResult:
    """What a set of images is like."""

    images: int
    """Readable images."""
    total_bytes: int
    """Of all files."""
    endings: dict[str, int]
    kinds: dict[str, int]
    """Channels and dtype → files, such as ``3 × uint8 RGB``."""
    short_side: tuple[int, int, int]
    """Smallest, median and largest short side, in pixels."""
    long_side: tuple[int, int, int]
    stacks: int
    """Files that hold several images."""
    in_chans: int
    """The number of channels that most files fit."""
    sampled: int
    """Files whose values were measured."""
    channels: tuple[ChannelSummary, ...]
    value_range: tuple[float, ...] | None
    """low, high of each channel; None for 8-bit images, which need none."""
    mean: tuple[float, ...]
    """Of each channel in 0 … 1, after the value range."""
    std: tuple[float, ...]
    declared_nodata: dict[float, int]
    """Values that files declare as missing → files."""
    damaged: tuple[str, ...] = field(repr=False)
    """Path and reason of each file that cannot be read."""
    one_color: tuple[str, ...] = field(repr=False)
    """Names of images of a single color."""
    equal: tuple[tuple[str, ...], ...] = field(repr=False)
    """Groups of files with the same bytes."""
    alike: tuple[tuple[str, ...], ...] = field(repr=False)
    """Groups of pictures that look alike, equal ones among them."""
    flags: tuple[str, ...] = ()
    """Flags of fcmae pretrain: names and values in turn."""
    notes: tuple[str, ...] = ()
    """What the flags do not say."""

"""Settings of the commands that read images for given weights: how pixels are read, where the weights do not say."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fcmae.config.checks import check_least
from fcmae.config.source import AccessConfig, PathConfig
from fcmae.data.pixel_reading import Slices, Stack, check_bands, check_value_range
from fcmae.errors import UserError

if TYPE_CHECKING:
    from fcmae.data.normalizer import Pixels  # it needs torch, which takes seconds to import

READING = ("bands", "value_range", "nodata", "stack", "slices", "level")


@dataclass(frozen=True)
class ImagesConfig(AccessConfig, PathConfig):
    """Where the images are."""

    def __post_init__(self) -> None:
        self.check_path()
        self.check_access()


@dataclass(frozen=True)
class PixelConfig:
    """How pixels are read and normalized. What is unset is as the weights say: a run's, or those that convert wrote."""

    bands: tuple[int, ...] | None = None
    """Channels of the files to use, in this order, counted from 1: 4,3,2. Unset: as the weights say, else all."""
    value_range: tuple[float, ...] | None = None
    """Values that become 0 and 1: low,high of all channels, or low,high of each in turn. Values beyond are clipped.
    Unset: as the weights say, else by the type of each file."""
    nodata: float | None = None
    """Value of pixels without data, which get the mean. Unset: as the weights say; NaN and the GDAL_NODATA tag of a
    TIFF always count."""
    stack: Stack | None = None
    """The pages of a TIFF: channels of one image, or images, of which the middle one is taken. Unset: as the weights
    say, else auto."""
    slices: Slices | None = None
    """How NIfTI volumes are cut into slices, of which the middle one is taken: axial, coronal or sagittal. Unset: as
    the weights say, else axial."""
    level: int | None = None
    """Resolution of slides and other pyramids, 0 the full one; unset: as the weights say, else 0."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel, for pixel values in 0 … 1. Unset: as the weights say, else ImageNet's."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each channel. Unset: as the weights say, else ImageNet's."""

    def __post_init__(self) -> None:
        check_bands(self.bands)
        check_value_range(self.value_range)
        if self.level is not None:
            check_least(self, level=0)
        if self.mean is not None and not all(0 <= mean <= 1 for mean in self.mean):
            raise ValueError(f"mean must be in [0, 1], the range of pixel values, got {self.mean}")
        if self.std is not None and not all(0 < std < float("inf") for std in self.std):
            raise ValueError(f"std must be above 0, got {self.std}")

    @property
    def set_for_files(self) -> list[str]:
        """Names of the settings that are set and apply to image files only."""
        return [name for name in READING if getattr(self, name) is not None]

    def over(self, pixels: "Pixels") -> "Pixels":
        """What the weights say, with what is set here in its place.

        Raises:
            UserError: another number of bands, ranges, means or standard deviations than the network has channels.
        """
        in_chans = pixels.reading.in_chans
        changes: dict[str, Any] = {name: getattr(self, name) for name in self.set_for_files}
        for name in ("mean", "std"):
            given = getattr(self, name)
            if given is not None and len(given) != in_chans:
                raise UserError(
                    f"--data.{name} must have one value per channel: the network takes {in_chans}, got {given}"
                )
        try:
            reading = replace(pixels.reading, **changes)
        except ValueError as error:
            raise UserError(f"--data.{str(error).replace('model.in_chans is', 'the network takes')}") from None
        normalize = replace(pixels.normalize, mean=self.mean or pixels.mean, std=self.std or pixels.std)
        return pixels._replace(normalize=normalize, reading=reading)

"""Settings of the images: ``data.*``."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fcmae.config.checks import check_finite, check_least
from fcmae.config.source import AccessConfig, PathConfig
from fcmae.data.pixel_reading import MAX_PIXELS, PixelReading, Slices, Stack, check_bands, check_value_range

if TYPE_CHECKING:
    from fcmae.data.normalizer import Normalizer  # it needs torch, which takes seconds to import

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class TrainingImagesConfig(AccessConfig, PathConfig):
    """Images to train on: how their pixels are read, and how they are cropped at random."""

    num_workers: int = 4
    """Data loading processes per training process; 0 loads in the training process. Does not change results."""
    cache: bool = False
    """Keep decoded images in memory, one copy per data loading process. For data sets that fit. JPEGs are then decoded
    at full size; without the cache, a crop far larger than img_size is decoded at half its size or less. Crops are
    equal up to rounding."""
    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Minimum and maximum fraction of the image area that a random crop covers."""
    crop_ratio: tuple[float, float] = (0.75, 1.3333333333333333)
    """Minimum and maximum aspect ratio (width / height) of a random crop."""
    hflip: float = 0.5
    """Probability of a horizontal flip."""
    vflip: float = 0.0
    """Probability of a vertical flip, for images without an upright."""
    rotate90: bool = False
    """Rotate each crop by 0, 90, 180 or 270 degrees, for images without an upright. Needs a square img_size."""
    bands: tuple[int, ...] | None = None
    """Channels of the files to use, in this order, counted from 1: 4,3,2. Unset: the files must have as many as
    model.in_chans."""
    value_range: tuple[float, ...] | None = None
    """Values that become 0 and 1: low,high of all channels, or low,high of each in turn. Values beyond are clipped.
    Unset: measured from a sample of the images, written to config.yaml; 8-bit images keep 0,255, and DICOM files with a
    window are read as it shows them. Set: Hounsfield units in CT."""
    nodata: float | None = None
    """Value of pixels without data. They get the mean, and patches mostly of them are not scored. NaN, the
    GDAL_NODATA tag of a TIFF and the padding value of DICOM always count."""
    stack: Stack = "auto"
    """Pages of a TIFF, frames of a DICOM file, slices of a volume: channels of one image, or images, one of which is
    drawn per crop. auto: channels if they are as many as model.in_chans, else images if the pages, or the C axis of an
    OME-TIFF, have as many channels. The slices of a NIfTI volume are images."""
    slices: Slices = "axial"
    """How NIfTI volumes are cut into slices: axial, coronal or sagittal."""
    level: int = 0
    """Resolution of slides and other pyramids: 0 is the full one, 1 the next smaller, and so on. Files of a single
    resolution are read as they are."""
    max_pixels: int = MAX_PIXELS
    """Largest image to decode, in pixels of up to 4 bytes; of tiled TIFFs and .npy files, the largest crop. Larger ones
    are skipped as unreadable."""
    mean: tuple[float, ...] | Literal["auto"] | None = None
    """Mean of each channel, for pixel values in 0 … 1; auto: measured from a sample of the images. Unset: ImageNet's
    for 8-bit images (averaged, for other than 3 channels), auto for others."""
    std: tuple[float, ...] | Literal["auto"] | None = None
    """Standard deviation of each channel, or auto. Unset: as for the mean."""

    def __post_init__(self) -> None:
        check_finite(self)
        check_least(self, num_workers=0, max_pixels=1, level=0)
        self.check_access()
        _check_range(self.crop_scale, "crop_scale", 1.0)
        _check_range(self.crop_ratio, "crop_ratio", float("inf"))
        for name in ("hflip", "vflip"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        check_bands(self.bands)
        check_value_range(self.value_range)
        self.check_path()
        if isinstance(self.mean, tuple) and not all(0 <= mean <= 1 for mean in self.mean):
            raise ValueError(f"mean must be in [0, 1], the range of pixel values, got {self.mean}")
        if isinstance(self.std, tuple) and not all(std > 0 for std in self.std):
            raise ValueError(f"std must be above 0, got {self.std}")

    def reading(self, in_chans: int) -> PixelReading:
        """How files are read as ``in_chans`` channels.

        Raises:
            ValueError: bands or value_range of another number of channels.
        """
        return PixelReading(
            in_chans, self.bands, self.value_range, self.nodata, self.stack, self.max_pixels, self.level, self.slices
        )

    def normalizer(self, in_chans: int) -> "Normalizer":
        """The normalizer for ``in_chans`` channels; ImageNet's in place of what is to be measured.

        Raises:
            ValueError: mean or std has another number of values.
        """
        from fcmae.data.normalizer import Normalizer

        return Normalizer(*self.mean_std(in_chans))

    def mean_std(self, in_chans: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """What :meth:`normalizer` subtracts and divides by; raises as it does, without importing torch."""

        def per_channel(
            given: tuple[float, ...] | Literal["auto"] | None, imagenet: tuple[float, ...], what: str
        ) -> tuple[float, ...]:
            if given is None or given == "auto":
                return imagenet if in_chans == 3 else (sum(imagenet) / 3,) * in_chans
            if len(given) != in_chans:
                raise ValueError(f"{what} must have one value per channel: model.in_chans is {in_chans}, got {given}")
            return given

        return per_channel(self.mean, IMAGENET_MEAN, "mean"), per_channel(self.std, IMAGENET_STD, "std")


@dataclass(frozen=True)
class DataConfig(TrainingImagesConfig):
    """The images and how they are cropped."""

    repeat: int = 1
    """Passes over the images per epoch, each with new crops."""
    crops_per_image: int = 1
    """Crops taken each time an image is decoded, for GPUs that wait for images. Each is a sample with its own mask;
    they come in as many steps in a row, so that an epoch is as many times longer. All but one crop of each image of a
    step wait in memory."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, repeat=1, crops_per_image=1)


def _check_range(pair: tuple[float, float], name: str, highest: float) -> None:
    low, high = pair
    if not 0 < low <= high <= highest:
        raise ValueError(f"{name} must be 0 < low ≤ high{'' if highest > 1 else ' ≤ 1'}, got {low:g}, {high:g}")

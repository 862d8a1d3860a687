"""Labeled training samples, which depend only on (seed, epoch, index), and center crops for validation."""

from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as TF

from fcmae.data.crops import center_box, resized_crop
from fcmae.data.draws import random_crop, sample_seed
from fcmae.data.images import ImageFile, UnreadableImageError, decoded
from fcmae.data.normalizer import Normalizer
from fcmae.data.pixel_reading import PixelReading
from fcmae.data.unreadable import Unreadable
from fcmae.errors import UserError
from fcmae.finetuning.augmentation import CHANNELS, Augment, augmented, erasing, rand_augment, seeded
from fcmae.finetuning.config import AugmentConfig, FinetuneDataConfig
from fcmae.finetuning.labeled_images import LabeledImages
from fcmae.finetuning.targets import Targets
from fcmae.wording import none_readable

EIGHT_BITS = (0.0, 255.0)
TRIED = 10  # images
MIXING, AUGMENTING = 1, 2  # tell the draws of a batch, and of a sample's augmentation, from those of its crop


class LabeledSample(NamedTuple):
    """One sample."""

    image: Tensor
    """float32 [C, H, W], normalized."""
    label: Tensor
    """int64 [], or float32 [classes] of 0 and 1."""
    seed: int
    unreadable: list[Unreadable]
    """Files that could not be read: the one that this sample replaces, and others met in search of it."""


class LabeledBatch(NamedTuple):
    """A micro-batch."""

    image: Tensor
    """float32 [B, C, H, W], normalized, mixed."""
    target: Tensor
    """float32 [B, classes]."""
    unreadable: list[Unreadable]


class LabeledSamples(Dataset):
    """Random crops of labeled images, augmented and normalized, addressed by (epoch, index).

    An unreadable image is replaced by a readable one, label and all, drawn anew for each sample from its own seed.

    Args:
        images: the images and labels.
        data: how images are cropped and flipped.
        augment: what else is done to them.
        image_hw: height and width of the samples.
        pixels: how files are read, and normalized.
        seed: of the run.
    """

    def __init__(
        self, images: LabeledImages, data: FinetuneDataConfig, augment: AugmentConfig, image_hw: tuple[int, int],
        reading: PixelReading, normalize: Normalizer, seed: int,
    ) -> None:  # fmt: skip
        self.images, self.data, self.image_hw, self.seed = images, data, image_hw, seed
        self.reading, self.normalize = reading, normalize
        self.labels = torch.from_numpy(images.labels)
        if self.labels.dtype == torch.bool:
            self.labels = self.labels.float()
        self.augment: Augment | None = None
        if augment.rand_augment is not None and reading.in_chans in CHANNELS:
            self.augment = rand_augment(augment.rand_augment, image_hw, normalize.mean)
        self.erase = erasing(augment.random_erasing) if augment.random_erasing else None
        self._cache: dict[int, ImageFile] = {}
        self._damaged: dict[int, Unreadable] = {}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> LabeledSample:
        epoch, index = key
        seed = sample_seed(self.seed, epoch, index)
        place, random, tried = index, Random(seed), set[int]()
        unreadable: list[Unreadable] = []
        while len(tried) < len(self.images):
            tried.add(place)
            is_known = place in self._damaged
            taken = self._taken(place, seed)
            if not isinstance(taken, Unreadable):
                return LabeledSample(taken, self.labels[place], seed, unreadable)
            if place == index or not is_known:  # others were named when their turn came
                unreadable.append(taken)
            while place in tried and len(tried) < len(self.images):
                place = random.randrange(len(self.images))
        raise UserError(none_readable(len(self.images), unreadable[0].message, of=" of --data.path"))

    def _taken(self, place: int, seed: int) -> Tensor | Unreadable:
        if place in self._damaged:
            return self._damaged[place]
        try:
            return self._augmented(self._open(place), seed)
        except UnreadableImageError as error:
            found = self._damaged[place] = Unreadable(self.images.names[place], str(error))
            return found

    def _augmented(self, file: ImageFile, seed: int) -> Tensor:
        random, data = Random(seed), self.data
        crop = random_crop(random, (file.height, file.width), data.crop_scale, data.crop_ratio)
        image = resized_crop(file, crop, self.image_hw, random.randrange(file.planes))
        if random.random() < data.hflip:
            image = image.flip(-1)
        if random.random() < data.vflip:
            image = image.flip(-2)
        if data.rotate90:
            image = image.rot90(random.randrange(4), (-2, -1))
        with seeded(sample_seed(seed, AUGMENTING, 0)):
            if self.augment is not None and (eight := self._as_bytes(image, file)) is not None:
                image = augmented(eight, self.augment)
            normal = self.normalize(image)
            return normal if self.erase is None else self.erase(normal)

    def _as_bytes(self, image: Tensor, file: ImageFile) -> Tensor | None:
        """uint8, as RandAugment takes it; None: 8 bits do not hold the image's values, or some are missing."""
        if image.dtype == torch.uint8:
            return image
        if self._why_deep(file) is not None or image.isnan().any():
            return None
        return TF.to_dtype(image, torch.uint8, scale=True)

    def _why_deep(self, file: ImageFile) -> str | None:
        if file.opened.dtype != np.uint8:
            return f"holds values of type {file.opened.dtype}"
        if self.reading.pairs() in (None, (EIGHT_BITS,) * self.reading.in_chans):
            return None
        return f"is read with the value range {self.reading.value_range}"

    def why_not_augmented(self) -> str | None:
        """Why RandAugment leaves images alone, by the first that can be opened; None: it does not, or was not asked."""
        if self.augment is None:
            return None
        for place in range(min(TRIED, len(self.images))):
            with suppress(UnreadableImageError):
                why = self._why_deep(self._open(place))
                return why and f"{self.images.names[place]} {why}"
        return None

    def _open(self, place: int) -> ImageFile:
        if place in self._cache:
            return self._cache[place]
        file = self.images.open(place, self.reading)
        if self.data.cache:
            file = self._cache[place] = decoded(file)
        return file


@dataclass(frozen=True)
class Collate:
    """Samples → a batch with its targets. It runs in the data loading processes, so mixing costs no time of training.

    What is mixed how depends on the seed of the first sample.
    """

    targets: Targets

    def __call__(self, samples: list[LabeledSample]) -> LabeledBatch:
        """A micro-batch of these samples."""
        images, labels = torch.stack([one.image for one in samples]), torch.stack([one.label for one in samples])
        images, targets = self.targets(images, labels, sample_seed(samples[0].seed, MIXING, len(samples)))
        return LabeledBatch(images, targets, [file for one in samples for file in one.unreadable])


class CenterCrops(Dataset):
    """Center crops of images, normalized: (index, float32 [C, H, W]), or (index, the reason) if it cannot be read."""

    def __init__(
        self, images: LabeledImages, image_hw: tuple[int, int], crop_pct: float, reading: PixelReading,
        normalize: Normalizer | None,
    ) -> None:  # fmt: skip
        self.images, self.image_hw, self.crop_pct = images, image_hw, crop_pct
        self.reading, self.normalize = reading, normalize

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[int, Tensor | str]:
        try:
            image = validation_crop(self.images.open(index, self.reading), self.image_hw, self.crop_pct)
        except UnreadableImageError as error:
            return index, str(error)
        return index, image if self.normalize is None else self.normalize(image)


def validation_crop(file: ImageFile, image_hw: tuple[int, int], crop_pct: float) -> Tensor:
    """A center crop of this share of the largest one, resized (bicubic); [C, H, W], uint8 or float32 in 0 … 1.

    With timm one resizes first and crops then; the region is the same.
    """
    top, left, height, width = center_box((file.height, file.width), image_hw)
    rows, columns = max(1, round(height * crop_pct)), max(1, round(width * crop_pct))
    box = (top + (height - rows) // 2, left + (width - columns) // 2, rows, columns)
    return resized_crop(file, box, image_hw, file.planes // 2)

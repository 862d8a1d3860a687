"""Training samples. The crop, flip and mask of each depend only on (seed, epoch, index)."""

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as TF

from fcmae.config import DataConfig
from fcmae.data.crops import center_crop, resized_crop
from fcmae.data.draws import random_crop, random_mask, sample_seed
from fcmae.data.folder import evenly_spaced
from fcmae.data.images import ImageFile, UnreadableImageError, decoded, decoded_once, open_image
from fcmae.data.nodata import moved_to, scored_patches
from fcmae.data.stored import ImageRef
from fcmae.data.unreadable import Unreadable
from fcmae.errors import UserError
from fcmae.models import ModelConfig
from fcmae.models.fcmae import count_visible
from fcmae.wording import none_readable


class Sample(NamedTuple):
    """One training sample, or a batch of them."""

    image: Tensor
    """uint8 [C, H, W], or float32 in 0 … 1 for images of more than 8 bits, NaN where there is no value; in a batch
    [B, C, H, W]."""
    visible: Tensor
    """bool [h, w]; in a batch [B, h, w]."""
    unreadable: list[Unreadable]
    """Files that could not be read: the one that this sample replaces, and others met in search of it."""
    scored: Tensor | None = None
    """bool [h, w], False for patches that are mostly nodata; in a batch [B, h, w]. None: all are scored."""


class PretrainDataset(Dataset):
    """Random crops of image files, addressed by (epoch, index).

    An unreadable file is replaced by a readable one, drawn anew for each sample from its own seed.
    """

    def __init__(
        self, paths: Sequence[ImageRef], data: DataConfig, model: ModelConfig, mask_ratio: float, seed: int
    ) -> None:
        self.paths, self.data, self.model, self.seed = paths, data, model, seed
        self.num_visible = count_visible(model.grid_hw[0] * model.grid_hw[1], mask_ratio)
        self.normalize = data.normalizer(model.in_chans)
        self.reading = data.reading(model.in_chans)
        self._cache: dict[int, ImageFile] = {}
        self._last: tuple[int, ImageFile] | None = None  # opened, with its pixels: more crops of it may follow
        self._damaged: dict[int, Unreadable] = {}

    def use(self, data: DataConfig) -> None:
        """Replace the settings of the pixels, once they are measured."""
        self.data, self._cache, self._last = data, {}, None
        self.normalize, self.reading = data.normalizer(self.model.in_chans), data.reading(self.model.in_chans)

    def __len__(self) -> int:
        return len(self.paths) * self.data.repeat * self.data.crops_per_image

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        seed = sample_seed(self.seed, epoch, index)
        return self._readable(index % len(self.paths), seed, lambda file: self._random_crop(file, seed))

    def _random_crop(self, file: ImageFile, seed: int) -> Sample:
        random = Random(seed)
        crop = random_crop(random, (file.height, file.width), self.data.crop_scale, self.data.crop_ratio)
        flip = random.random() < self.data.hflip
        visible = random_mask(random, self.model.grid_hw, self.num_visible)
        plane = random.randrange(file.planes)  # after the draws of all other runs, which it leaves alone
        image = resized_crop(file, crop, self.model.image_hw, plane)
        image = image.flip(-1) if flip else image
        if random.random() < self.data.vflip:
            image = image.flip(-2)
        if self.data.rotate90:
            image = image.rot90(random.randrange(4), (-2, -1))
        return self._masked(image, visible, random)

    def _masked(self, image: Tensor, visible: Tensor, random: Random) -> Sample:
        """A sample whose mask avoids patches without values."""
        scored = scored_patches(image, self.model.grid_hw)
        return Sample(image, visible if scored is None else moved_to(scored, visible, random), [], scored)

    def fixed_samples(self, count: int) -> Sample:
        """A batch of evenly spaced images with center crops and fixed masks, for reconstruction pictures."""
        return next(self.fixed_batches(count, count))

    def fixed_batches(self, count: int, batch_size: int) -> Iterator[Sample]:
        """The same, in batches."""
        places = evenly_spaced(range(len(self.paths)), count)
        for first in range(0, len(places), batch_size):
            samples = []
            for n, place in enumerate(places[first : first + batch_size], first):
                seed = sample_seed(self.seed, 0, n)
                random = Random(seed)
                visible = random_mask(random, self.model.grid_hw, self.num_visible)
                found = self._readable(place, seed, self._center_crop)
                samples.append(self._masked(found.image, visible, random)._replace(unreadable=found.unreadable))
            yield collate(samples)

    def _center_crop(self, file: ImageFile) -> Sample:
        return Sample(center_crop(file, self.model.image_hw), torch.empty(0), [])

    def check_readable(self) -> None:
        """UserError unless at least one file can be read; reads until it finds one."""
        for place in range(len(self.paths)):
            if not isinstance(self._taken(place, self._center_crop), Unreadable):
                return
        raise self._none_readable()

    def _readable(self, place: int, seed: int, take: Callable[[ImageFile], Sample]) -> Sample:
        """``take`` applied to this image. If it is damaged: to the first readable one of those that the seed draws."""
        sample = self._taken(place, take)
        if not isinstance(sample, Unreadable):
            return sample
        unreadable, tried, random = [sample], {place}, Random(seed)
        while len(tried) < len(self.paths):
            place = random.randrange(len(self.paths))
            if place in tried:
                continue
            tried.add(place)
            is_known = place in self._damaged
            sample = self._taken(place, take)
            if not isinstance(sample, Unreadable):
                return sample._replace(unreadable=unreadable)
            if not is_known:  # others were named when their turn came
                unreadable.append(sample)
        raise self._none_readable()

    def _taken(self, place: int, take: Callable[[ImageFile], Sample]) -> Sample | Unreadable:
        """``take`` applied to one image. Damaged files are remembered, and not opened again."""
        if place in self._damaged:
            return self._damaged[place]
        try:
            return take(self._open(place))
        except UnreadableImageError as error:
            found = Unreadable(str(self.paths[place]), str(error))
            if not _may_pass(error):
                self._damaged[place] = found
            return found

    def _none_readable(self) -> UserError:
        first = next(iter(self._damaged.values()), None)
        reason = first.message if first else str(self.paths[0])
        of, how = f" of --data.path {self.data.path}", f" with --model.in_chans {self.model.in_chans}"
        return UserError(none_readable(len(self.paths), reason, of, how))

    def _open(self, index: int) -> ImageFile:
        if index in self._cache:
            return self._cache[index]
        if self._last is not None and self._last[0] == index:
            return self._last[1]
        self._last = None  # no two decoded images at once
        file = open_image(self.paths[index], self.reading)
        if self.data.cache:
            file = self._cache[index] = decoded(file)
        elif self.data.crops_per_image > 1:
            file = decoded_once(file)
            self._last = index, file
        return file


def _may_pass(error: UnreadableImageError) -> bool:
    """Whether the file system failed, and not the file."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno is not None


def collate(samples: list[Sample], pin_memory: bool = False) -> Sample:
    """Samples → a batch; uint8 and channels-last in memory, or float32 if one of its images has more than 8 bits."""
    images = [s.image for s in samples]
    if len({image.dtype for image in images}) > 1:
        images = [TF.to_dtype(image, torch.float32, scale=True) for image in images]
    are_bytes = images[0].dtype == torch.uint8
    if are_bytes:
        images = [i.movedim(0, -1) for i in images]
    batch = _stacked(images, pin_memory)
    scored = None
    if any(s.scored is not None for s in samples):
        masks = [torch.ones_like(s.visible) if s.scored is None else s.scored for s in samples]
        scored = _stacked(masks, pin_memory)
    return Sample(
        batch.movedim(-1, 1) if are_bytes else batch,
        _stacked([s.visible for s in samples], pin_memory),
        [file for s in samples for file in s.unreadable],
        scored,
    )


def _stacked(tensors: list[Tensor], pin_memory: bool) -> Tensor:
    shape = len(tensors), *tensors[0].shape
    return torch.stack(tensors, out=torch.empty(shape, dtype=tensors[0].dtype, pin_memory=pin_memory))

"""Images to batches. A sample's crop, flip and mask depend on (seed, epoch, index) and on nothing else.

The training set is one endless stream of samples, epoch after epoch, each epoch a new order. Batches are cut from the
stream without regard to where epochs end: all are full, no sample is dropped, and the same samples make up step t
whatever the number of processes, workers and micro-batches that share them.
"""

import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import NamedTuple, TypeVar

import torch
from accelerate.utils import gather_object
from timm.data.readers.reader_image_folder import find_images_and_targets
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms.v2 import functional as TF

from fcmae.config import DataConfig
from fcmae.console import ENDING_SIGNALS
from fcmae.crops import centre_crop, resized_crop
from fcmae.draws import random_crop, random_mask, sample_seed
from fcmae.errors import UserError
from fcmae.images import EXTENSIONS, ImageFile, UnreadableImageError, decoded, open_image
from fcmae.models import ModelConfig
from fcmae.models.fcmae import count_visible, random_visible

logger = logging.getLogger(__name__)

T = TypeVar("T")

# package → its photographs; the order is that of training, textures between the others
PHOTOGRAPHS = (
    ("skimage.data", "astronaut.png brick.png camera.png cell.png chelsea.png clock_motion.png coffee.png coins.png"),
    ("skimage.data", "grass.png"),
    ("sklearn.datasets.images", "flower.jpg"),
    ("skimage.data", "gravel.png"),
    ("sklearn.datasets.images", "china.jpg"),
    ("skimage.data", "hubble_deep_field.jpg motorcycle_left.png ihc.png rocket.jpg moon.png retina.jpg"),
)


def embedded_photographs() -> list[Path]:
    """The photographs that lie inside scikit-image and scikit-learn; nothing is downloaded."""
    return [Path(str(files(package) / name)) for package, names in PHOTOGRAPHS for name in names.split()]


def image_files(folder: str | Path, leave_out: Path | None = None) -> list[Path]:
    """Every image file in a folder and its subfolders, in natural order of the paths.

    ``leave_out`` is a run folder, which may lie inside: its pictures are no training data.

    Raises:
        UserError: no such folder, or no file in it with the ending of an image.
    """
    if not Path(folder).is_dir():
        what = "is a file, not a folder" if Path(folder).exists() else "does not exist"
        raise UserError(f"--data.path {folder} {what}; give a folder of images")
    found = [Path(path) for path, _ in find_images_and_targets(str(folder), types=EXTENSIONS)[0]]
    # hidden ones are no photographs: ._a.jpg, .thumbnails/
    found = [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if leave_out is not None:
        found = [path for path in found if not path.resolve().is_relative_to(leave_out.resolve())]
    if not found:
        raise UserError(
            f"--data.path {folder} holds no images; looked in it and its subfolders for {' '.join(sorted(EXTENSIONS))}"
        )
    return found


def evenly_spaced(items: Sequence[T], count: int) -> list[T]:
    """So many of them, from the first on, or all if there are no more."""
    count = min(count, len(items))
    return [items[n * len(items) // count] for n in range(count)]


def images_to_look_at(folder: str | None, count: int) -> list[Path]:
    """So many of the images of a folder, evenly spaced; of the embedded photographs without one; raises as above."""
    return evenly_spaced(embedded_photographs() if folder is None else image_files(folder), count)


class Sample(NamedTuple):
    """One training sample, or a batch of them."""

    image: Tensor
    """uint8 [C, H, W], or float32 in 0 … 1 for images of more than 8 bits; in a batch [B, C, H, W]."""
    visible: Tensor
    """bool [h, w]; in a batch [B, h, w]."""
    unreadable: list[str]
    """Files that were tried for it and could not be read, each with the reason."""


class PretrainDataset(Dataset):
    """Random crops of image files, addressed by (epoch, index).

    A file that cannot be read is replaced by the next one that can, in the order of the list.
    """

    def __init__(self, paths: list[Path], data: DataConfig, model: ModelConfig, mask_ratio: float, seed: int) -> None:
        self.paths, self.data, self.model, self.seed = paths, data, model, seed
        self.num_visible = count_visible(model.grid_hw[0] * model.grid_hw[1], mask_ratio)
        self.normalise = data.normaliser(model.in_chans)
        self._cache: dict[int, ImageFile] = {}

    def __len__(self) -> int:
        return len(self.paths) * self.data.repeat

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        seed = sample_seed(self.seed, epoch, index)
        return self._first_readable(index % len(self.paths), lambda file: self._random_crop(file, seed))

    def _random_crop(self, file: ImageFile, seed: int) -> Sample:
        random = Random(seed)
        crop = random_crop(random, (file.height, file.width), self.data.crop_scale, self.data.crop_ratio)
        flip = random.random() < self.data.hflip
        visible = random_mask(random, self.model.grid_hw, self.num_visible)
        image = resized_crop(file, crop, self.model.image_hw)
        return Sample(image.flip(-1) if flip else image, visible, [])

    def fixed_samples(self, count: int) -> Sample:
        """A batch of evenly spaced images, cropped at the centre, with fixed masks; for pictures."""
        samples = []
        for n, place in enumerate(evenly_spaced(range(len(self.paths)), count)):
            generator = torch.Generator().manual_seed(sample_seed(self.seed, 0, n))
            visible = random_visible(1, self.model.grid_hw, self.num_visible, generator=generator)[0]
            image = self._first_readable(place, self._centre_crop).image
            samples.append(Sample(image, visible, []))
        return collate(samples)

    def _centre_crop(self, file: ImageFile) -> Sample:
        return Sample(centre_crop(file, self.model.image_hw), torch.empty(0), [])

    def check_readable(self) -> None:
        """UserError unless at least one file can be read; reads until it finds one."""
        self._first_readable(0, self._centre_crop)

    def _first_readable(self, index: int, take: Callable[[ImageFile], Sample]) -> Sample:
        """What ``take`` makes of this image, or of the next in the list that can be read."""
        unreadable: list[str] = []
        for offset in range(len(self.paths)):
            place = (index + offset) % len(self.paths)
            try:
                return take(self._open(place))._replace(unreadable=unreadable)
            except UnreadableImageError as error:
                unreadable.append(str(error))
        raise UserError(
            f"none of the {len(self.paths)} images of --data.path {self.data.path} can be read with --model.in_chans "
            f"{self.model.in_chans}; the first: {unreadable[0]}"
        )

    def _open(self, index: int) -> ImageFile:
        if index in self._cache:
            return self._cache[index]
        file = open_image(self.paths[index], self.model.in_chans)
        if self.data.cache:
            file = self._cache[index] = decoded(file)
        return file


class SampleStream(Sampler[list[tuple[int, int]]]):
    """The micro-batches of one process: lists of (epoch, index), from ``start_step`` to ``total_steps``."""

    def __init__(
        self, num_samples: int, *, batch_size: int, accumulation_steps: int = 1, rank: int = 0, world_size: int = 1,
        seed: int = 0, start_step: int = 0, total_steps: int,
    ) -> None:  # fmt: skip
        self.num_samples, self.batch_size, self.rank, self.world_size = num_samples, batch_size, rank, world_size
        self.seed = seed
        self.micro_batches = range(start_step * accumulation_steps, total_steps * accumulation_steps)

    def __len__(self) -> int:
        return len(self.micro_batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, torch.empty(0)
        for micro_batch in self.micro_batches:
            first = (micro_batch * self.world_size + self.rank) * self.batch_size
            batch = []
            for position in range(first, first + self.batch_size):
                if position // self.num_samples != epoch:
                    epoch = position // self.num_samples
                    order = self.epoch_order(epoch)
                batch.append((epoch, int(order[position % self.num_samples])))
            yield batch

    def epoch_order(self, epoch: int) -> Tensor:
        """A permutation of the samples, int64 [num_samples], that depends on seed and epoch alone."""
        generator = torch.Generator().manual_seed(sample_seed(self.seed, epoch, self.num_samples))
        return torch.randperm(self.num_samples, generator=generator)


def make_loader(dataset: PretrainDataset, stream: SampleStream, pin_memory: bool) -> DataLoader:
    """Batches as :class:`Sample`, in the order of the stream."""
    return DataLoader(
        dataset,
        batch_sampler=stream,  # an index here is (epoch, index)
        num_workers=dataset.data.num_workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        worker_init_fn=_ignore_signals,
    )


def collate(samples: list[Sample]) -> Sample:
    """Samples → a batch; uint8 and channels-last in memory, or float32 if one of its images has more than 8 bits."""
    images = [s.image for s in samples]
    if len({image.dtype for image in images}) > 1:
        images = [TF.to_dtype(image, torch.float32, scale=True) for image in images]
    are_bytes = images[0].dtype == torch.uint8
    return Sample(
        torch.stack([i.movedim(0, -1) for i in images]).movedim(-1, 1) if are_bytes else torch.stack(images),
        torch.stack([s.visible for s in samples]),
        [path for s in samples for path in s.unreadable],
    )


def _ignore_signals(_worker: int) -> None:
    """Ctrl-C reaches the whole process group; workers must live until the training process has saved and ends them."""
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class UnreadableFiles:
    """Names each unreadable file in the log once, and counts them, whichever process of the run met it."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._new: list[str] = []

    def note(self, messages: list[str]) -> None:
        """Remember those of a batch until the next :meth:`share`."""
        self._new += [message for message in messages if message not in self.seen]

    def share(self, num_processes: int) -> None:
        """Bring together what all processes noted, and warn about what is new; all must call it."""
        messages = gather_object(self._new) if num_processes > 1 else self._new
        for message in sorted(set(messages) - self.seen):
            logger.warning("skipped, cannot be read: %s", message)
        self.seen.update(messages)
        self._new = []

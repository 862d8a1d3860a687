"""Batches of images for evaluation: the largest center crop of the requested shape."""

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as TF

from fcmae.data.crops import center_crop
from fcmae.data.images import UnreadableImageError, open_image
from fcmae.data.pixel_reading import PixelReading
from fcmae.data.stored import ImageRef
from fcmae.data.workers import end_with_parent
from fcmae.errors import UserError
from fcmae.progress import tracked
from fcmae.wording import none_readable

logger = logging.getLogger(__name__)


class CropBatch(NamedTuple):
    """A batch of images and their indices."""

    images: Tensor
    """float32 [B, C, H, W] in 0 … 1, NaN where a file has no value; on the CPU."""
    indices: Tensor
    """int64 [B], positions in the list of paths."""


def crop_batches(
    paths: Sequence[ImageRef],
    image_hw: tuple[int, int],
    reading: PixelReading | int = 3,
    batch_size: int = 32,
    num_workers: int = 0,
) -> Iterator[CropBatch]:
    """Every readable image, in the order of the list. Unreadable files are logged and skipped.

    Raises:
        UserError: none of the images can be read.
    """
    loader = DataLoader(
        _Crops(paths, image_hw, PixelReading.of(reading)), batch_size=batch_size, num_workers=num_workers,
        collate_fn=list, worker_init_fn=end_with_parent,
    )  # fmt: skip
    readable, reason = 0, ""
    for batch in tracked(loader, len(paths), "reading images", len):
        for entry in batch:
            if isinstance(entry, str):
                reason = reason or entry
                logger.warning("skipped, cannot be read: %s", entry)
        good = [entry for entry in batch if not isinstance(entry, str)]
        readable += len(good)
        if good:
            yield CropBatch(torch.stack([image for image, _ in good]), torch.tensor([index for _, index in good]))
    if not readable:
        raise UserError(none_readable(len(paths), reason))


def _for_given_weights(reason: str) -> str:
    """A reason in the words of commands that have no ``--model`` options."""
    reason = reason.replace("--model.in_chans is", "the network takes")
    return reason.replace("set --model.in_chans to the number of channels, or pick", "pick")


class _Crops(Dataset):
    def __init__(self, paths: Sequence[ImageRef], image_hw: tuple[int, int], reading: PixelReading) -> None:
        self.paths, self.image_hw, self.reading = paths, image_hw, reading

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | str:
        try:
            image = center_crop(open_image(self.paths[index], self.reading), self.image_hw)
        except UnreadableImageError as error:
            return _for_given_weights(str(error))
        return TF.to_dtype(image, torch.float32, scale=True), index

"""Which sample is at which position of the stream."""

import numpy as np
import torch

from fcmae.data.draws import sample_seed


class SampleOrder:
    """An endless order of samples, reshuffled every epoch; a function of these arguments alone.

    With one crop per image, an epoch is a permutation of its samples. With more, each of its passes is a permutation of
    the images, cut into groups as large as a step. A group comes once for each crop before the next group begins. So
    the crops of an image are a step apart and at the same place in their steps (the same process and micro-batch makes
    them all), and a step within a pass holds no image twice. The last group also takes what is left over; there the
    places shift.

    Args:
        num_samples: of an epoch.
        num_images: all samples with the same index modulo this number are crops of one image.
        crops_per_image: in each pass.
        step_size: samples of an optimizer step, over all processes; matters for several crops only.
        seed: of the permutations.
    """

    def __init__(self, num_samples: int, num_images: int, crops_per_image: int, step_size: int, seed: int) -> None:
        self.num_samples, self.num_images, self.seed = num_samples, num_images, seed
        self.crops, self.step_size = crops_per_image, step_size
        self._epoch, self._shuffled = -1, np.empty(0, np.int64)

    def key(self, position: int) -> tuple[int, int]:
        """(epoch, index) of the sample; fast for positions of one epoch after the other."""
        epoch, place = divmod(position, self.num_samples)
        if epoch != self._epoch:
            self._epoch, self._shuffled = epoch, self.shuffled(epoch).numpy()  # faster to index
        if self.crops == 1:
            return epoch, int(self._shuffled[place])
        number, place = divmod(place, self.num_images * self.crops)
        first, size = self._group(place)
        crop, member = divmod(place - first, size)
        image = int(self._shuffled[number * self.num_images + first // self.crops + member])
        return epoch, image + (number * self.crops + crop) * self.num_images

    def crops_with(self, position: int) -> range:
        """The positions of all crops that this sample's image has in its pass, ascending; its own is among them."""
        if self.crops == 1:
            return range(position, position + 1)
        first, size = self._group(place := position % self.num_samples % (self.num_images * self.crops))
        start = position - (place - first) // size * size
        return range(start, start + self.crops * size, size)

    def shuffled(self, epoch: int) -> torch.Tensor:
        """Permutations that depend only on seed and epoch, int64: of the samples, or of the images for each pass."""
        generator = torch.Generator().manual_seed(sample_seed(self.seed, epoch, self.num_samples))
        if self.crops == 1:
            return torch.randperm(self.num_samples, generator=generator)
        passes = self.num_samples // (self.num_images * self.crops)
        return torch.cat([torch.randperm(self.num_images, generator=generator) for _ in range(passes)])

    def _group(self, place: int) -> tuple[int, int]:
        """The first place of the group that holds this place of a pass, and its number of images."""
        groups = max(1, self.num_images // self.step_size)
        number = min(place // (self.step_size * self.crops), groups - 1)
        size = self.step_size if number < groups - 1 else self.num_images - number * self.step_size
        return number * self.step_size * self.crops, size

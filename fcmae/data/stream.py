"""The stream of samples, cut into micro-batches.

The training set is an endless stream of samples, reshuffled every epoch. Batches are cut from the stream across epoch
boundaries. So all of them are full, no sample is dropped, and step t has the same samples for any number of processes,
workers and micro-batches.
"""

from collections.abc import Iterator

from torch.utils.data import Sampler

from fcmae.data.order import SampleOrder


class SampleStream(Sampler[list[tuple[int, int]]]):
    """The micro-batches of one process: lists of (epoch, index), from ``start_step`` to ``total_steps``.

    ``num_images`` and ``crops_per_image`` shape the order (:class:`SampleOrder`); by default each sample is an image.
    """

    def __init__(
        self, num_samples: int, *, batch_size: int, accumulation_steps: int = 1, rank: int = 0, world_size: int = 1,
        seed: int = 0, start_step: int = 0, total_steps: int, num_images: int | None = None, crops_per_image: int = 1,
    ) -> None:  # fmt: skip
        self.batch_size, self.accumulation_steps = batch_size, accumulation_steps
        self.rank, self.world_size = rank, world_size
        step_size = batch_size * accumulation_steps * world_size
        images = num_samples // crops_per_image if num_images is None else num_images
        self.order = SampleOrder(num_samples, images, crops_per_image, step_size, seed)
        self.micro_batches = range(start_step * accumulation_steps, total_steps * accumulation_steps)

    def __len__(self) -> int:
        return len(self.micro_batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for micro_batch in self.micro_batches:
            yield [self.order.key(position) for position in self.positions(micro_batch)]

    def positions(self, micro_batch: int) -> range:
        """The places in the stream that this process's micro-batch takes."""
        first = (micro_batch * self.world_size + self.rank) * self.batch_size
        return range(first, first + self.batch_size)

    def find(self, position: int) -> tuple[int, int] | None:
        """(micro-batch, place in it) of a position; None: another process's, or outside of these steps."""
        number, place = divmod(position, self.batch_size)
        micro_batch, rank = divmod(number, self.world_size)
        return (micro_batch, place) if rank == self.rank and micro_batch in self.micro_batches else None

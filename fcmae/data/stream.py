"""The order of samples, and their loader.

The training set is an endless stream of samples, reshuffled every epoch. Batches are cut from the stream across epoch
boundaries. So all of them are full, no sample is dropped, and step t has the same samples for any number of processes,
workers and micro-batches.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from fcmae.data.draws import sample_seed
from fcmae.data.samples import PretrainDataset, collate
from fcmae.data.workers import serve_parent


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
        """A permutation of the samples, int64 [num_samples], that depends only on seed and epoch."""
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
        worker_init_fn=serve_parent,
    )

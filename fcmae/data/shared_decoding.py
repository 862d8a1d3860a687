"""Several crops of each decoded image: made together by a loading process, they wait until their batches are due."""

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from torch.utils.data import Dataset, Sampler

from fcmae.data.samples import PretrainDataset, Sample, collate
from fcmae.data.stream import SampleStream


class Place(NamedTuple):
    """Where a sample belongs."""

    micro_batch: int
    row: int
    key: tuple[int, int]
    """(epoch, index)."""


class Piece(NamedTuple):
    """Samples of one micro-batch that were made together."""

    micro_batch: int
    rows: list[int]
    samples: Sample
    """A batch of them, in the order of ``rows``."""


class DecodingJobs(Sampler[list[Place]]):
    """The samples of a stream, each at the first need of its image: the crops of an image follow one another.

    A job has about as many samples as a micro-batch. None has a part of an image's crops only.
    """

    def __init__(self, stream: SampleStream) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[list[Place]]:
        stream, job, later = self.stream, list[Place](), set[int]()
        for micro_batch in stream.micro_batches:
            for position in stream.positions(micro_batch):
                if position in later:  # made with an earlier crop
                    later.remove(position)
                    continue
                for at in stream.order.crops_with(position):
                    if at >= position and (found := stream.find(at)):
                        job.append(Place(*found, stream.order.key(at)))
                        later.add(at)
                later.remove(position)
                if len(job) >= stream.batch_size:
                    yield job
                    job = []
        if job:
            yield job


class PlacedSamples(Dataset):
    """Samples with their places."""

    def __init__(self, dataset: PretrainDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, place: Place) -> tuple[Place, Sample]:
        return place, self.dataset[place.key]


def to_pieces(placed: list[tuple[Place, Sample]]) -> list[Piece]:
    """The samples of a job, divided by micro-batch: mixed depths convert only what shares a batch."""
    parts: dict[int, list[tuple[Place, Sample]]] = defaultdict(list)
    for place, sample in placed:
        parts[place.micro_batch].append((place, sample))
    return [
        Piece(number, [place.row for place, _ in part], collate([sample for _, sample in part]))
        for number, part in parts.items()
    ]


def assembled(jobs: Iterator[list[Piece]], stream: SampleStream, pin_memory: bool) -> Iterator[Sample]:
    """The micro-batches of the stream, of the pieces that :class:`DecodingJobs` order.

    All images of a step are new at once, and then none are for some steps. So that loading processes work evenly, their
    results are taken as many samples ahead as the steps without new images take.
    """
    steps_ahead = stream.order.crops - 1
    due = steps_ahead * stream.accumulation_steps * stream.batch_size
    waiting: dict[int, dict[int, Sample]] = defaultdict(dict)
    for micro_batch in stream.micro_batches:
        due += stream.batch_size
        while due > 0 or len(waiting[micro_batch]) < stream.batch_size:
            pieces = next(jobs, None)
            if pieces is None:
                break
            for piece in pieces:
                due -= len(piece.rows)
                waiting[piece.micro_batch].update(zip(piece.rows, _each(piece.samples), strict=True))
        rows = waiting.pop(micro_batch)
        yield collate([rows[row] for row in range(stream.batch_size)], pin_memory)


def _each(batch: Sample) -> Iterator[Sample]:
    """The samples of a batch; the first one names the unreadable files of all."""
    if batch.image.is_shared():  # it may wait for long, and shared memory is scarce
        batch = batch._replace(
            image=batch.image.clone(),
            visible=batch.visible.clone(),
            scored=None if batch.scored is None else batch.scored.clone(),
        )
    for row in range(len(batch.image)):
        scored = None if batch.scored is None else batch.scored[row]
        yield Sample(batch.image[row], batch.visible[row], batch.unreadable if row == 0 else [], scored)

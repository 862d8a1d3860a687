"""The loader of training batches, and its processes."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.utils.data import DataLoader

from fcmae.data.samples import PretrainDataset, Sample, collate
from fcmae.data.shared_decoding import DecodingJobs, PlacedSamples, assembled, to_pieces
from fcmae.data.stream import SampleStream
from fcmae.data.workers import batches_of, serve_parent


@contextmanager
def loading(dataset: PretrainDataset, stream: SampleStream, pin_memory: bool) -> Iterator[Iterator[Sample]]:
    """The micro-batches of the stream, in its order. When the block ends, so do the loading processes."""
    shared = stream.order.crops > 1
    loader = DataLoader(
        PlacedSamples(dataset) if shared else dataset,
        batch_sampler=DecodingJobs(stream) if shared else stream,  # type: ignore[arg-type]  # indices are no integers
        num_workers=dataset.data.num_workers,
        collate_fn=to_pieces if shared else collate,
        pin_memory=pin_memory,
        worker_init_fn=serve_parent,
    )
    with batches_of(loader) as batches:
        yield assembled(batches, stream, pin_memory) if shared else batches

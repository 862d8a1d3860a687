"""The loader of training batches."""

from functools import partial

from torch.utils.data import DataLoader

from fcmae.data.samples import PretrainDataset, collate
from fcmae.data.shared_decoding import DecodingJobs, PlacedSamples, assembled, to_pieces
from fcmae.data.stream import SampleStream
from fcmae.data.workers import Arranged, serve_parent


def make_loader(dataset: PretrainDataset, stream: SampleStream, pin_memory: bool) -> DataLoader | Arranged:
    """Batches as :class:`Sample`, in the order of the stream."""
    shared = stream.order.crops > 1
    loader = DataLoader(
        PlacedSamples(dataset) if shared else dataset,
        batch_sampler=DecodingJobs(stream) if shared else stream,  # an index here is a Place or (epoch, index)
        num_workers=dataset.data.num_workers,
        collate_fn=to_pieces if shared else collate,
        pin_memory=pin_memory,
        worker_init_fn=serve_parent,
    )
    return Arranged(loader, partial(assembled, stream=stream, pin_memory=pin_memory)) if shared else loader

"""Several crops of each decoded image: the same samples as if each were made for itself, in the order of the stream."""

import pickle
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fcmae.config import DataConfig
from fcmae.data.folder import image_files
from fcmae.data.images import open_image
from fcmae.data.loader import make_loader
from fcmae.data.reading import jpeg
from fcmae.data.samples import PretrainDataset, Sample, collate
from fcmae.data.shared_decoding import DecodingJobs, Piece, PlacedSamples, assembled, to_pieces
from fcmae.data.stream import SampleStream
from fcmae.data.workers import batches_of
from fcmae.models import ModelConfig

MODEL = ModelConfig(img_size=32, stem_stride=1)


def dataset(folder: Path, crops: int = 3, **data: object) -> PretrainDataset:
    config = DataConfig(**{"num_workers": 0, "crops_per_image": crops, **data})
    return PretrainDataset(image_files(folder), config, MODEL, 0.6, 0)


def stream_of(data: PretrainDataset, **split: int) -> SampleStream:
    shape = {"num_images": len(data.paths), "crops_per_image": data.data.crops_per_image, "seed": 3}
    return SampleStream(len(data), **{"total_steps": 12, **shape, **split})  # type: ignore[arg-type]


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal bit for bit, NaN included."""
    return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()


def assert_as_one_by_one(data: PretrainDataset, alone: PretrainDataset, stream: SampleStream) -> None:
    """The loader's batches are those of the stream's keys, each sample made without the others, bit for bit."""
    with batches_of(make_loader(data, stream, False)) as batches:
        for batch, keys in zip(batches, stream, strict=True):
            expected = collate([alone[key] for key in keys])
            assert same(batch.image, expected.image)
            assert batch.image.stride() == expected.image.stride()
            assert torch.equal(batch.visible, expected.visible)
            assert (batch.scored is None) == (expected.scored is None)
            assert batch.scored is None or torch.equal(batch.scored, expected.scored)


@pytest.fixture
def odd_images(tmp_path: Path) -> Path:
    """Of 8 and 16 bits, with missing values, far larger than a crop, and damaged: 11 in all."""
    rng = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(rng.integers(0, 256, (50, 60, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        coarse.resize((300, 260), Image.Resampling.BICUBIC).save(tmp_path / f"{number}.jpg")
    deep = rng.random((40, 50, 3)).astype(np.float32)
    deep[:20] = np.nan
    np.save(tmp_path / "deep.npy", deep)
    np.save(tmp_path / "deep16.npy", rng.integers(0, 65536, (40, 50, 3), dtype=np.uint16))
    (tmp_path / "damaged.png").write_bytes(b"junk")
    return tmp_path


@pytest.mark.parametrize("data", [{}, {"cache": True}, {"repeat": 2}])
@pytest.mark.parametrize("split", [(1, 1, 4), (1, 2, 3), (2, 1, 2), (3, 2, 1)])
def test_batches_are_those_of_the_stream(odd_images: Path, split: tuple[int, int, int], data: dict) -> None:
    """For each process, from the start and from steps in the middle of an image's crops."""
    world, accumulate, size = split
    together, alone = dataset(odd_images, **data), dataset(odd_images, **data, crops=1)
    for rank in range(world):
        for start in (0, 2, 7):
            shape = {"rank": rank, "world_size": world, "accumulation_steps": accumulate, "batch_size": size}
            assert_as_one_by_one(together, alone, stream_of(together, **shape, start_step=start))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(odd_images: Path, workers: int) -> None:
    data = dataset(odd_images, num_workers=workers)
    assert_as_one_by_one(data, dataset(odd_images, crops=1), stream_of(data, batch_size=2, accumulation_steps=2))


def test_the_same_samples_as_so_many_passes(odd_images: Path) -> None:
    shared, passes = dataset(odd_images, crops=3, repeat=2), dataset(odd_images, crops=1, repeat=6)
    assert len(shared) == len(passes) == 66
    for index in range(66):
        assert torch.equal(shared[(1, index)].visible, passes[(1, index)].visible)
        assert same(shared[(1, index)].image, passes[(1, index)].image)


def test_an_image_is_opened_and_decoded_once_for_its_crops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """12 JPEGs, 4 crops each, two epochs in steps of 4; all crops are from the full resolution."""
    rng = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(rng.integers(0, 256, (40, 44, 3), dtype=np.uint8)).save(tmp_path / f"{number}.jpg")
    data, opened, decoded = dataset(tmp_path, crops=4), Counter[str](), Counter[bytes]()

    def counting(path: Path, *args: object) -> object:
        opened[path.name] += 1
        return open_image(path, *args)  # type: ignore[arg-type]

    def decoding(content: bytes, *args: object) -> object:
        decoded[content] += 1
        return decode(content, *args)  # type: ignore[arg-type]

    decode = jpeg._decode
    monkeypatch.setattr("fcmae.data.samples.open_image", counting)
    monkeypatch.setattr(jpeg, "_decode", decoding)
    with batches_of(make_loader(data, stream_of(data, batch_size=4, total_steps=24), False)) as batches:
        assert sum(len(batch.image) for batch in batches) == 96
    assert set(opened.values()) == set(decoded.values()) == {2}
    assert len(opened) == len(decoded) == 12


@pytest.mark.parametrize(("images", "largest_group"), [(18, 6), (20, 8)])
def test_what_waits_is_bounded_and_taken_evenly(tmp_path: Path, images: int, largest_group: int) -> None:
    """All but one crop of each image of a step (or of the last group of a pass), and what one job has over."""
    for number in range(images):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    data = dataset(tmp_path, crops=4)
    stream = stream_of(data, batch_size=2, accumulation_steps=3, total_steps=40)
    taken = 0

    def counted() -> Iterator[list[Piece]]:
        nonlocal taken
        placed = PlacedSamples(data)
        for job in DecodingJobs(stream):
            taken += len(job)
            yield to_pieces([placed[place] for place in job])

    before = 3 * 6 + 2
    for number, batch in enumerate(assembled(counted(), stream, False)):
        assert len(batch.image) == 2
        assert taken - 2 * number <= 3 * largest_group + 2 + 3
        assert taken - before <= (4 if images % 6 == 0 else 12)
        before = taken
    assert taken == 40 * 6


def test_a_damaged_image_is_replaced_by_another_for_each_crop(odd_images: Path) -> None:
    data = dataset(odd_images, crops=11)
    place = [path.name for path in data.paths].index("damaged.png")
    crops = [data[(0, place + 11 * crop)] for crop in range(11)]
    assert all(Path(crop.unreadable[0].name).name == "damaged.png" for crop in crops)
    assert len({crop.image.sum().item() for crop in crops if crop.image.dtype == torch.uint8}) > 2
    named = set[str]()
    with batches_of(make_loader(data, stream_of(data, batch_size=11, total_steps=11), False)) as batches:
        for batch in batches:
            named |= {Path(file.name).name for file in batch.unreadable}
    assert named == {"damaged.png"}


def test_a_data_set_between_two_crops_can_be_sent_to_a_worker(odd_images: Path) -> None:
    data = dataset(odd_images)
    for index in range(11):
        one: Sample = data[(0, index)]
        again = pickle.loads(pickle.dumps(data))[(0, index)]
        assert torch.equal(one.visible, again.visible)
        assert same(one.image, again.image)

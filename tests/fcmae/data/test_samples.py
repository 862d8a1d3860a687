"""The stream of samples: order, crops, flips and masks depend on seed, epoch and index alone; nothing is dropped."""

import pickle
import shutil
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from fcmae.config import DataConfig
from fcmae.data.draws import random_crop, sample_seed
from fcmae.data.folder import embedded_photographs, equal_shares, image_files, images_to_look_at
from fcmae.data.images import open_image, read_image
from fcmae.data.loader import make_loader
from fcmae.data.samples import PretrainDataset, collate
from fcmae.data.stream import SampleStream
from fcmae.errors import UserError
from fcmae.models import ModelConfig

MODEL = ModelConfig(img_size=32, stem_stride=1)


def dataset(folder: Path, seed: int = 0, **data: object) -> PretrainDataset:
    return PretrainDataset(image_files(folder), DataConfig(**{"num_workers": 0, **data}), MODEL, 0.6, seed)


def test_a_sample_depends_on_seed_epoch_and_index_alone(image_folder: Path) -> None:
    a, b = dataset(image_folder), dataset(image_folder, cache=True)
    _ = [b[(3, i)] for i in range(5)]  # other samples before it, and torch's generator elsewhere
    torch.manual_seed(99)
    first, second = a[(2, 7)], b[(2, 7)]
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.visible, second.visible)
    for key, other in (((3, 7), a), ((2, 8), a), ((2, 7), dataset(image_folder, seed=1))):
        assert not torch.equal(other[key].image, first.image)


def test_taking_a_sample_leaves_torchs_generator_alone(image_folder: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    _ = dataset(image_folder)[(0, 0)]
    assert torch.equal(torch.rand(3), expected)


def test_what_a_sample_is(image_folder: Path) -> None:
    sample = dataset(image_folder)[(0, 0)]
    assert sample.image.shape == (3, 32, 32)
    assert sample.image.dtype == torch.uint8
    assert sample.visible.shape == (4, 4)
    assert int(sample.visible.sum()) == 6
    assert sample.unreadable == []


def test_normalize_and_back(image_folder: Path) -> None:
    data = dataset(image_folder, mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))
    image = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1)
    normal = data.normalize(image)
    torch.testing.assert_close(normal.flatten(), torch.tensor([-0.2, 0.0, 0.35]))
    torch.testing.assert_close(data.normalize.inverse(normal), image / 255)


def test_flips_are_half_and_crops_vary(image_folder: Path) -> None:
    """hflip=1 mirrors hflip=0 for the same crop; at 0.5 about half are mirrored (200 draws, 5 standard deviations)."""
    never, always, half = (dataset(image_folder, hflip=p, cache=True) for p in (0.0, 1.0, 0.5))
    flips = 0
    for epoch in range(200):
        straight = never[(epoch, 0)].image
        assert torch.equal(always[(epoch, 0)].image, straight.flip(-1))
        flips += torch.equal(half[(epoch, 0)].image, straight.flip(-1))
    assert abs(flips - 100) < 5 * 50**0.5


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(image_folder: Path, workers: int) -> None:
    def batches(num_workers: int) -> list[torch.Tensor]:
        data = dataset(image_folder, num_workers=num_workers)
        stream = SampleStream(len(data), batch_size=4, seed=3, total_steps=6)
        return [part for batch in make_loader(data, stream, False) for part in (batch.image, batch.visible)]

    assert all(torch.equal(a, b) for a, b in zip(batches(0), batches(workers), strict=True))


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("cache", [False, True])
def test_a_data_set_in_use_can_be_sent_to_a_worker(tmp_path: Path, cache: bool, suffix: str) -> None:
    """Where processes are not forked (macOS, Windows, Python from 3.14 on), workers get it pickled."""
    Image.new("RGB", (40, 40), (10, 200, 30)).save(tmp_path / f"a.{suffix}")
    data = dataset(tmp_path, cache=cache)
    data.check_readable()
    assert torch.equal(pickle.loads(pickle.dumps(data))[(0, 0)].image, data[(0, 0)].image)


def test_no_sample_is_dropped() -> None:
    """10 samples in batches of 4: three epochs are 7.5 steps; each epoch holds every sample exactly once."""
    batches = list(SampleStream(10, batch_size=4, seed=0, total_steps=8))
    assert all(len(b) == 4 for b in batches)
    flat = [key for b in batches for key in b]
    for epoch in range(3):
        assert Counter(i for e, i in flat if e == epoch) == Counter(range(10))
    orders = [[i for e, i in flat if e == epoch] for epoch in range(3)]
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize(("world", "accumulate"), [(1, 4), (2, 2), (4, 1), (2, 1)])
def test_a_steps_samples_do_not_depend_on_who_shares_them(world: int, accumulate: int) -> None:
    """Step t holds positions 8t … 8t+7 of the stream, whatever the split over processes and micro-batches."""
    size = 8 // (world * accumulate)
    ranks = [
        list(SampleStream(10, batch_size=size, accumulation_steps=accumulate, rank=r, world_size=world, total_steps=5))
        for r in range(world)
    ]
    whole = list(SampleStream(10, batch_size=8, total_steps=5))
    for step in range(5):
        micro = [key for m in range(accumulate) for r in range(world) for key in ranks[r][step * accumulate + m]]
        assert micro == whole[step]


def test_a_stream_that_starts_later_is_the_rest_of_the_stream() -> None:
    whole = list(SampleStream(10, batch_size=4, accumulation_steps=2, total_steps=9, seed=1))
    rest = SampleStream(10, batch_size=4, accumulation_steps=2, total_steps=9, seed=1, start_step=5)
    assert list(rest) == whole[10:]
    assert len(rest) == 8


def test_embedded_photographs_exist() -> None:
    paths = embedded_photographs()
    assert len(paths) == 18
    assert all(p.is_file() for p in paths)


def test_nested_and_flat_folders_in_natural_order(image_folder: Path, tmp_path: Path) -> None:
    assert len(image_files(image_folder)) == 10
    for i in (10, 9, 1):
        shutil.copy(image_folder / "a" / "0.png", tmp_path / f"{i}.PNG")
    (tmp_path / "notes.txt").write_text("no image")
    assert [p.name for p in image_files(tmp_path)] == ["1.PNG", "9.PNG", "10.PNG"]
    (tmp_path / "run").mkdir()
    shutil.copy(tmp_path / "1.PNG", tmp_path / "run" / "picture.png")
    assert len(image_files(tmp_path)) == 4
    assert len(image_files(tmp_path, leave_out=tmp_path / "run")) == 3


def test_unreadable_files_are_replaced_and_named(image_folder: Path, tmp_path: Path) -> None:
    for i in range(3):
        shutil.copy(image_folder / "a" / "0.png", tmp_path / f"{i}.png")
    (tmp_path / "1.png").write_bytes(b"junk")
    data = dataset(tmp_path, hflip=0.0, crop_scale=(1.0, 1.0))
    sample = data[(0, 1)]
    assert len(sample.unreadable) == 1
    assert sample.unreadable[0].name == str(tmp_path / "1.png")
    assert "1.png" in sample.unreadable[0].message
    assert data[(0, 0)].unreadable == []


def test_hidden_files_are_no_photographs(tmp_path: Path) -> None:
    (tmp_path / ".thumbnails").mkdir()
    for name in ("a.png", "._a.png", ".thumbnails/a.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    assert image_files(tmp_path) == [tmp_path / "a.png"]


def test_folders_without_a_usable_image(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        image_files(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"holds no images; looked .* for .*\.jpg"):
        image_files(tmp_path)
    (tmp_path / "a.png").write_bytes(b"junk")
    assert image_files(tmp_path / "a.png") == image_files(tmp_path)
    (tmp_path / "notes.md").write_text("junk")
    with pytest.raises(UserError, match="is a file, not a folder"):
        image_files(tmp_path / "notes.md")
    with pytest.raises(
        UserError,
        match=r"^the only image of --data.path None cannot be read with --model.in_chans 3: .*a\.png: ",
    ):
        dataset(tmp_path).check_readable()


def test_one_pixel_images_can_be_cropped(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (1, 1), (10, 20, 30)).save(tmp_path / "a.png")
    Image.new("RGB", (1, 500)).save(tmp_path / "b.png")
    data = dataset(tmp_path)
    for epoch in range(5):
        assert data[(epoch, 0)].image.isfinite().all()
        assert data[(epoch, 1)].image.shape == (3, 32, 32)
    assert data.fixed_samples(8).image.shape == (2, 3, 32, 32)


def test_pixels_are_torchvisions(image_folder: Path) -> None:
    """Of the crop that is drawn (tests/fcmae/test_draws.py), as torchvision resizes and mirrors it."""
    data = dataset(image_folder)
    for index in range(10):
        random = Random(sample_seed(0, 3, index))
        image = read_image(data.paths[index])
        box = random_crop(random, (image.shape[1], image.shape[2]), (0.2, 1.0), (3 / 4, 4 / 3))
        expected = TF.resized_crop(image, *box, size=[32, 32], interpolation=InterpolationMode.BICUBIC, antialias=True)
        got = data[(3, index)].image
        assert torch.equal(got, expected.flip(-1) if random.random() < 0.5 else expected)


def test_bytes_stay_channels_last_until_they_are_normalized(image_folder: Path) -> None:
    """As decoders write them; turning them is left to the device."""
    data = dataset(image_folder)
    batch = collate([data[(0, index)] for index in range(3)])
    assert batch.image.shape == (3, 3, 32, 32)
    assert batch.image.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch.image[1], data[(0, 1)].image)
    floats = collate([data[(0, 0)]._replace(image=torch.rand(3, 32, 32)), data[(0, 1)]])
    assert floats.image.is_contiguous()
    normal = data.normalize(batch.image)
    assert normal.is_contiguous()
    torch.testing.assert_close(data.normalize.inverse(normal), batch.image / 255)


def test_a_reduced_jpeg_gives_the_same_crop(tmp_path: Path) -> None:
    """An image far larger than the crop: decoded small or in full (as the cache does), nearly the same pixels."""
    y, x = np.mgrid[:512, :480]
    Image.fromarray(np.stack([y // 3, x // 3, (y + x) // 5], axis=2).astype(np.uint8)).save(tmp_path / "a.jpg")
    small, full = dataset(tmp_path)[(0, 0)], dataset(tmp_path, cache=True)[(0, 0)]
    assert torch.equal(small.visible, full.visible)
    assert not torch.equal(small.image, full.image)  # it was decoded in another way
    assert (small.image.short() - full.image.short()).abs().float().mean() < 4


def test_batches_of_mixed_depth(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), (51, 51, 51)).save(tmp_path / "a.png")
    Image.fromarray(np.full((40, 40), 13107, np.uint16)).save(tmp_path / "b.png")  # both 0.2
    data = dataset(tmp_path)
    batch = collate([data[(0, 0)], data[(0, 1)]])
    torch.testing.assert_close(batch.image, torch.full((2, 3, 32, 32), 0.2))
    assert collate([data[(0, 0)]]).image.dtype == torch.uint8
    torch.testing.assert_close(data.normalize(batch.image)[0], data.normalize(collate([data[(0, 0)]]).image)[0])


def test_a_run_of_damaged_files_is_replaced_by_all_the_others(tmp_path: Path) -> None:
    """60 damaged files before 4 good ones: each good one takes about a quarter of their places, not the next all."""
    for i in range(60):
        (tmp_path / f"{i:03}.npy").write_bytes(b"broken")
    for i in range(60, 64):
        np.save(tmp_path / f"{i:03}.npy", np.full((40, 40, 3), i, np.uint8))
    data = dataset(tmp_path)
    drawn = {(epoch, i): int(data[(epoch, i)].image[0, 0, 0]) for epoch in range(4) for i in range(60)}
    counts = Counter(drawn.values())
    assert set(counts) == {60, 61, 62, 63}
    assert all(abs(count - 60) < 5 * (240 * 0.25 * 0.75) ** 0.5 for count in counts.values())
    other = dataset(tmp_path)  # in another order, as another worker or process meets them
    for key in sorted(drawn, reverse=True)[::7]:
        assert int(other[key].image[0, 0, 0]) == drawn[key]
    assert [drawn[0, i] for i in range(60)] != [drawn[1, i] for i in range(60)]


def test_a_damaged_file_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that the file system failed to give again every time: it may be there the next time."""
    Image.new("RGB", (40, 40)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"junk")
    (tmp_path / "gone.png").write_bytes(b"junk")
    data, opened = dataset(tmp_path), Counter[str]()
    (tmp_path / "gone.png").unlink()

    def counting(path: Path, *args: object) -> object:
        opened[path.name] += 1
        return open_image(path, *args)  # type: ignore[arg-type]

    monkeypatch.setattr("fcmae.data.samples.open_image", counting)
    for epoch in range(5):
        for place in range(3):
            sample = data[(epoch, place)]
            named = {Path(file.name).name for file in sample.unreadable}
            assert data.paths[place].name == "good.png" or data.paths[place].name in named
    assert opened["bad.png"] == 1
    assert opened["gone.png"] >= 5


def test_fixed_samples_in_batches(image_folder: Path) -> None:
    data = dataset(image_folder)
    whole, parts = data.fixed_samples(7), list(data.fixed_batches(7, 3))
    assert [len(part.image) for part in parts] == [3, 3, 1]
    assert torch.equal(torch.cat([part.image for part in parts]), whole.image)
    assert torch.equal(torch.cat([part.visible for part in parts]), whole.visible)


def test_as_many_of_each_class_to_look_at(tmp_path: Path) -> None:
    for name, count in (("a", 20), ("b", 3), ("c", 5)):
        (tmp_path / name).mkdir()
        for number in range(count):
            Image.new("RGB", (4, 4)).save(tmp_path / name / f"{number}.png")

    def classes(count: int) -> list[int]:
        found = images_to_look_at(str(tmp_path), count)
        assert found == [path for path in image_files(tmp_path) if path in found]
        return [sum(path.parent.name == name for path in found) for name in "abc"]

    assert classes(9) == [3, 3, 3]
    assert classes(12) == [5, 3, 4]
    assert sum(classes(2)) == 2
    assert max(classes(2)) == 1
    assert classes(99) == [20, 3, 5]
    assert [path.name for path in images_to_look_at(str(tmp_path / "a"), 4)] == ["0.png", "5.png", "10.png", "15.png"]


def test_equal_shares() -> None:
    assert equal_shares([5, 5, 5], 7) == [3, 2, 2]
    assert equal_shares([1, 0, 9], 6) == [1, 0, 5]
    assert equal_shares([2, 2], 9) == [2, 2]
    assert equal_shares([], 3) == []
    assert equal_shares([3] * 10, 5) == [1, 0] * 5

"""Labeled samples: functions of (seed, epoch, index) alone, with labels that stay with their images."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fcmae.data.crop_share import crop_share
from fcmae.data.normalizer import Normalizer
from fcmae.data.pixel_reading import PixelReading
from fcmae.errors import UserError
from fcmae.finetuning.augmentation import rand_augment, seeded
from fcmae.finetuning.config import AugmentConfig, FinetuneDataConfig
from fcmae.finetuning.labels import labeled_set
from fcmae.finetuning.samples import CenterCrops, Collate, LabeledSamples, validation_crop
from fcmae.finetuning.targets import Targets

PLAIN = Normalizer((0.5,) * 3, (0.25,) * 3)
ALL = AugmentConfig(rand_augment="rand-m9-mstd0.5-inc1", random_erasing=0.5)


def samples(path: Path, augment: AugmentConfig = ALL, seed: int = 0, **data: object) -> LabeledSamples:
    settings = FinetuneDataConfig(path=str(path), **data)  # type: ignore[arg-type]
    return LabeledSamples(labeled_set(settings, 0).train, settings, augment, (16, 16), PixelReading(), PLAIN, seed)


def test_a_sample_is_a_function_of_seed_epoch_and_index(colors: Path) -> None:
    """Whatever was drawn before, in whatever order, cached or not; and no global generator moves."""
    dataset, cached = samples(colors), samples(colors, cache=True)
    first = {(epoch, n): dataset[epoch, n].image for epoch in (0, 1) for n in range(len(dataset))}
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # type: ignore[func-returns-value]
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # type: ignore[index]
    for key in reversed(first):
        assert torch.equal(dataset[key].image, first[key])
        assert torch.equal(cached[key].image, first[key])
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert not torch.equal(first[0, 0], first[1, 0])
    assert not torch.equal(samples(colors, seed=1)[0, 0].image, first[0, 0])


def test_labels_stay_with_their_images_and_the_unreadable_is_replaced(colors: Path) -> None:
    dataset = samples(colors, AugmentConfig())
    named = [set[str](), set[str]()]
    for epoch in (0, 1):
        for n in range(len(dataset)):
            sample = dataset[epoch, n]
            assert sample.image.dtype == torch.float32
            assert sample.image.mean((1, 2)).argmax() == 2 - sample.label  # blue, green, red
            named[epoch] |= {file.name for file in sample.unreadable}
    assert named[0] <= {"blue/broken.png"}


def test_a_batch_is_mixed_by_the_seed_of_its_first_sample(colors: Path) -> None:
    dataset, mixed = samples(colors, AugmentConfig()), AugmentConfig(mixup=0.8, cutmix=1.0, label_smoothing=0.0)
    some = [dataset[0, n] for n in range(4)]
    batch, again, other = (Collate(Targets(mixed, 3, False))(batch) for batch in (some, some, some[::-1]))
    assert batch.image.shape == (4, 3, 16, 16)
    assert torch.allclose(batch.target.sum(1), torch.ones(4))
    assert torch.equal(batch.image, again.image)
    assert not torch.equal(batch.image, other.image.flip(0))
    plain = Collate(Targets(AugmentConfig(label_smoothing=0.0), 3, False))(some)
    assert torch.equal(plain.image, torch.stack([one.image for one in some]))
    assert plain.target.argmax(1).tolist() == [int(one.label) for one in some]


def test_erased_pixels_are_noise_after_normalization(colors: Path) -> None:
    plain, erased = samples(colors, AugmentConfig()), samples(colors, AugmentConfig(random_erasing=1.0))
    before, after = plain[0, 0].image, erased[0, 0].image
    differ = (before != after).any(0)
    assert 0.01 < differ.float().mean() < 0.4
    rows, columns = differ.any(1).nonzero(), differ.any(0).nonzero()
    assert differ[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()  # one rectangle


def test_augmentation_keeps_gray_gray_and_leaves_deep_images_alone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for n in range(3):
            ramp = np.arange(400, dtype=np.uint16).reshape(20, 20) * 100
            Image.fromarray(ramp).save(tmp_path / name / f"{n}.png")
    data = FinetuneDataConfig(path=str(tmp_path), crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), hflip=0.0)
    train = labeled_set(data, 0).train
    one = Normalizer((0.0,), (1.0,))
    reading = PixelReading(1, value_range=(0.0, 50000.0))
    deep = LabeledSamples(train, data, AugmentConfig(rand_augment="rand-m9"), (20, 20), reading, one, 0)[0, 0].image
    assert torch.allclose(deep, torch.arange(400).view(1, 20, 20) * 100 / 50000, atol=1e-3)


def test_rand_augment_takes_eight_bits_of_the_full_range(tmp_path: Path) -> None:
    """As it takes images without a range; otherwise one knows why it does not."""
    for name, dtype in (("bytes", np.uint8), ("words", np.uint16)):
        for kind in "ab":
            (tmp_path / name / kind).mkdir(parents=True)
            for n in range(3):
                ramp = np.arange(400).reshape(20, 20) * (255 if dtype == np.uint8 else 65535) // 399
                Image.fromarray(ramp.astype(dtype)).save(tmp_path / name / kind / f"{n}.png")
        (tmp_path / name / "a" / "0.png").write_bytes(b"no image")
    one = Normalizer((0.0,), (1.0,))

    def of(name: str, *given: float, augment: str | None = "rand-m9") -> LabeledSamples:
        data = FinetuneDataConfig(path=str(tmp_path / name), crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), hflip=0.0)
        reading = PixelReading(1, value_range=given or None)
        train = labeled_set(data, 0).train
        return LabeledSamples(train, data, AugmentConfig(rand_augment=augment), (20, 20), reading, one, 0)

    for n in range(3):
        plain, full = of("bytes")[0, n].image, of("bytes", 0.0, 255.0)[0, n].image
        assert torch.allclose(plain, full, atol=0.5 / 255)
        assert not torch.allclose(plain, of("bytes", augment=None)[0, n].image, atol=0.05)
        assert torch.equal(of("bytes", 0.0, 200.0)[0, n].image, of("bytes", 0.0, 200.0, augment=None)[0, n].image)
    assert of("bytes").why_not_augmented() is None
    assert of("bytes", 0.0, 255.0).why_not_augmented() is None
    assert of("words", 0.0, 9.0, augment=None).why_not_augmented() is None
    range_ = of("bytes", 0.0, 200.0).why_not_augmented()
    assert range_ is not None
    assert range_.endswith(".png is read with the value range (0.0, 200.0)")
    words = of("words").why_not_augmented()
    assert words is not None
    assert words.endswith(".png holds values of type uint16")


def test_rand_augment_notation_that_timm_does_not_know() -> None:
    with pytest.raises(UserError, match=r"--augment\.rand_augment rand-m9-x3 is not understood"):
        rand_augment("rand-m9-x3", (16, 16), (0.5,) * 3)


def test_the_validation_crop_is_the_center_s_share(colors: Path) -> None:
    """Columns of an image whose pixels tell where they are; timm resizes first and crops then."""
    from fcmae.data.images import open_image

    ramp = np.repeat(np.arange(0, 240, 2, dtype=np.uint8)[None, :, None], 80, axis=0).repeat(3, axis=2)
    file = colors.parent / "ramp.png"
    Image.fromarray(ramp).save(file)
    crop = validation_crop(open_image(file), (40, 40), 0.5).float()
    assert crop.shape == (3, 40, 40)
    assert crop[0, 0, 1].item() == pytest.approx(2 * 41, abs=2)  # the middle 40 of 120 columns
    assert crop[0, 0, 38].item() == pytest.approx(2 * 78, abs=2)
    assert (crop_share(None, (224, 224)), crop_share(None, (384, 384)), crop_share(0.9, (384, 384))) == (0.875, 1, 0.9)


def test_validation_passes_over_what_cannot_be_read(colors: Path) -> None:
    data = FinetuneDataConfig(path=str(colors))
    train = labeled_set(data, 0).train
    found = dict(CenterCrops(train, (16, 16), 1.0, PixelReading(), PLAIN)[n] for n in range(len(train)))
    broken = [name for name, image in zip(train.names, found.values(), strict=True) if isinstance(image, str)]
    assert broken in ([], ["blue/broken.png"])


def test_seeded_restores_after_an_error() -> None:
    state = random.getstate()
    with pytest.raises(ZeroDivisionError), seeded(5):
        _ = random.random() / 0
    assert random.getstate() == state


def test_augmentation_is_independent_of_the_crop(colors: Path) -> None:
    """With one seed for both, large crops were those that the first operation left alone."""
    from fcmae.data.draws import sample_seed
    from fcmae.finetuning import samples as module

    seeds = []
    dataset = samples(colors, AugmentConfig(rand_augment="rand-m9"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "seeded", lambda seed: seeds.append(seed) or seeded(seed))
        keys = [(0, n) for n in range(len(dataset))]
        of_crops = [dataset[key].seed for key in keys]
    first = np.array([[random.Random(one).random() for one in some] for some in (seeds[-len(keys) :], of_crops)])
    assert not set(seeds) & set(of_crops)
    assert of_crops == [sample_seed(0, *key) for key in keys]
    assert abs(np.corrcoef(first)[0, 1]) < 0.5

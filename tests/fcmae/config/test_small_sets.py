"""The recipe for small sets: its values by the set's size, the batch and the image size."""

import pytest

from fcmae.config import PretrainModelConfig, TrainConfig, small_sets
from fcmae.training.batch import peak_learning_rate


@pytest.mark.parametrize(
    ("samples", "epochs"),
    [(1, 800), (300, 800), (301, 797), (1_969, 122), (10_000, 24), (60_000, 4), (99_999, 3), (10**7, 3)],
)
def test_epochs_show_about_as_many_images_whatever_the_set(samples: int, epochs: int) -> None:
    assert small_sets.epochs(samples) == epochs


@pytest.mark.parametrize("batch", [1, 16, 64, 256])
def test_the_peak_is_the_same_for_any_batch_up_to_256(batch: int) -> None:
    train = TrainConfig(base_lr=small_sets.base_lr(batch))
    assert peak_learning_rate(train, batch) == pytest.approx(1.5e-3, rel=1e-12)


def test_above_that_the_peak_is_what_suits_any_set() -> None:
    assert small_sets.base_lr(257) is None
    train = TrainConfig(base_lr=small_sets.base_lr(4096))
    assert peak_learning_rate(train, 4096) == pytest.approx(2.4e-3)  # the paper's


@pytest.mark.parametrize(
    ("name", "side", "stride", "patches"),
    [
        ("convnextv2_atto", 24, 1, 3),
        ("convnextv2_atto", 32, 1, 4),
        ("convnextv2_atto", 56, 1, 7),
        ("convnextv2_atto", 64, 2, 4),
        ("convnextv2_atto", 72, 1, 9),
        ("convnextv2_atto", 144, 2, 9),
        ("convnext_tiny", 112, 2, 7),
        ("convnext_tiny", 128, 4, 4),
        ("convnextv2_huge", 224, 4, 7),
        ("convnext_isotropic_small", 16, 4, 4),
        ("convnext_isotropic_small", 32, 8, 4),
        ("convnext_isotropic_small", 64, 16, 4),
        ("convnext_isotropic_small", 224, 16, 14),
    ],
)
def test_patches_are_as_large_as_a_grid_of_4_by_4_allows(name: str, side: int, stride: int, patches: int) -> None:
    assert small_sets.stem_stride(name, (side, side)) == stride
    assert small_sets.stem_stride(name, (side, 20 * side)) == stride
    assert PretrainModelConfig(name=name, img_size=side, stem_stride=stride).grid_hw == (patches, patches)


def test_the_whole_recipe() -> None:
    found = small_sets.values("convnextv2_atto", (32, 32), samples=60_000, effective_batch=128)
    assert found == {
        "model.stem_stride": 1, "model.decoder_dim": 256,
        "data.crop_scale": (0.3, 1.0), "data.mean": "auto", "data.std": "auto",
        "train.epochs": 4, "train.batch_size": 64, "train.base_lr": 3e-3, "train.warmup_epochs": 0.2,
    }  # fmt: skip
    assert found.keys() == small_sets.NAMES
    longer = small_sets.values("convnextv2_atto", (32, 32), 60_000, 128, given_epochs=100)
    assert longer == found | {"train.warmup_epochs": 5.0}

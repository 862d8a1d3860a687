"""The shipped recipes hold the papers' values: tables 9 to 13 of arXiv 2301.00808, and V1's."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fcmae.cli.finetune_parser import RECIPES, parse_config
from fcmae.cli.pretrain_parser import recipe_names
from fcmae.finetuning import recipes
from fcmae.finetuning.config import FinetuneConfig, FinetuneDataConfig
from fcmae.finetuning.recipes import of_size
from fcmae.models import ModelConfig
from fcmae.models.sizes import SIZES
from fcmae.training.batch import learning_rate_advice, peak_learning_rate
from fcmae.weights import read
from fcmae.weights.weights import Weights

# size: base lr, weight decay, layer decay, groups of three, epochs, warm-up, smoothing, mixup, cutmix, drop path
IMAGENET_1K: dict[str, tuple[Any, ...]] = {
    "atto": (2e-4, 0.3, 0.9, False, 600, 0, 0.2, 0.0, 0.0, 0.1),
    "femto": (2e-4, 0.05, 0.9, False, 600, 0, 0.2, 0.3, 0.3, 0.0),
    "pico": (2e-4, 0.3, 0.9, False, 600, 0, 0.2, 0.3, 0.3, 0.0),
    "nano": (2e-4, 0.3, 0.9, False, 600, 0, 0.2, 0.5, 0.5, 0.1),
    "tiny": (8e-4, 0.05, 0.9, False, 300, 40, 0.1, 0.8, 1.0, 0.2),
    "base": (6.25e-4, 0.05, 0.6, True, 100, 20, 0.1, 0.8, 1.0, 0.1),
    "large": (6.25e-4, 0.05, 0.6, True, 100, 20, 0.1, 0.8, 1.0, 0.2),
    "huge": (1.25e-3, 0.05, 0.75, True, 50, 10, 0.1, 0.8, 1.0, 0.3),
}


def values(recipe: str) -> tuple[Any, ...]:
    config = parse_config(["--config", recipe])
    train, augment = config.train, config.augment
    assert augment.rand_augment == "rand-m9-mstd0.5-inc1"
    assert augment.random_erasing == 0.25
    assert train.betas == (0.9, 0.999)
    return (
        train.base_lr, train.weight_decay, train.layer_decay, train.layer_decay_by == "three", train.epochs,
        train.warmup_epochs, augment.label_smoothing, augment.mixup, augment.cutmix, config.model.drop_path_rate,
    )  # fmt: skip


@pytest.mark.parametrize("size", IMAGENET_1K)
def test_imagenet_1k(size: str) -> None:
    assert values(f"finetune_{size}") == IMAGENET_1K[size]
    config = parse_config(["--config", f"finetune_{size}"])
    assert (config.train.effective_batch, config.train.ema, config.model.head_init_scale) == (1024, 0.9999, 0.001)


@pytest.mark.parametrize(("recipe", "decay", "drop_path"), [("nano", 0.9, 0.0), ("base", 0.8, 0.1), ("huge", 0.8, 0.3)])
def test_imagenet_22k_and_back(recipe: str, decay: float, drop_path: float) -> None:
    three = recipe != "nano"
    assert values(f"finetune_22k_{recipe}") == (2.5e-4, 0.05, decay, three, 90, 5, 0.1, 0.8, 1.0, drop_path)
    epochs = 90 if recipe == "nano" else 30
    assert values(f"finetune_22k_1k_{recipe}") == (2.5e-5, 1e-8, decay, three, epochs, 0, 0.1, 0.0, 0.0, drop_path)


@pytest.mark.parametrize(
    ("name", "drop_path"),
    [
        *((f"convnext_{size}", rate) for size, rate in {"tiny": 0.1, "small": 0.4, "base": 0.5, "large": 0.5}.items()),
        *((f"convnextv2_{size}", rate) for size, rate in {"atto": 0.1, "tiny": 0.1, "base": 0.5, "huge": 0.5}.items()),
        *(("convnext_isotropic_small", 0.1), ("convnext_isotropic_base", 0.2), ("convnext_isotropic_large", 0.5)),
    ],
)
def test_v1_s_supervised_training_has_the_drop_path_of_the_size(name: str, drop_path: float) -> None:
    """V1's table 5; the warm-up of isotropic networks is that of the official commands."""
    recipe = recipes.v1_of_size(recipes.SUPERVISED, name)
    warmup = 50 if "isotropic" in name else 20
    assert values(recipe) == (2.5e-4, 0.05, 1.0, False, 300, warmup, 0.1, 0.8, 1.0, drop_path)
    config, base = (parse_config(["--config", one]) for one in (recipe, "finetune_v1"))
    usual = {"model": base.model, "train": replace(config.train, warmup_epochs=20)}
    assert replace(config, **usual) == base


@pytest.mark.parametrize(("size", "rate"), [("tiny", 0.2), ("base", 0.2), ("large", 0.3), ("xlarge", 0.4)])
def test_v1_after_22k_has_the_drop_path_of_the_size(size: str, rate: float) -> None:
    recipe = recipes.v1_of_size(recipes.AFTER_SUPERVISED, f"convnext_{size}")
    assert values(recipe) == (2.5e-5, 1e-8, 0.8, True, 30, 0, 0.1, 0.0, 0.0, rate)
    config, base = (parse_config(["--config", name]) for name in (recipe, "finetune_v1_22k_1k"))
    assert config.train.ema == (0.9999 if size == "xlarge" else 0.0)  # as in the official commands
    usual = {"model": replace(config.model, drop_path_rate=0.2), "train": replace(config.train, ema=0.0)}
    assert replace(config, **usual) == base


def test_v1() -> None:
    train = parse_config(["--config", "finetune_v1"]).train
    assert peak_learning_rate(train, train.effective_batch or 0) == pytest.approx(4e-3)
    assert values("finetune_v1_384") == (2.5e-5, 1e-8, 0.7, True, 30, 0, 0.1, 0.0, 0.0, 0.8)
    at_384, large = (parse_config(["--config", name]) for name in ("finetune_v1_384", "finetune_v1_384_large"))
    assert peak_learning_rate(at_384.train, at_384.train.effective_batch or 0) == pytest.approx(5e-5)
    assert at_384.model.img_size == 384
    assert large.model.drop_path_rate == 0.95
    assert replace(large, model=at_384.model) == at_384


@pytest.mark.parametrize(
    ("prefix", "batch"), [("finetune_22k_1k", 512), ("finetune_22k", 4096), ("finetune_v1_22k_1k", 512)]
)
def test_batches_after_and_of_22k(prefix: str, batch: int) -> None:
    for name in RECIPES.names():
        if name.startswith(prefix) and (prefix != "finetune_22k" or "1k" not in name):
            assert parse_config(["--config", name]).train.effective_batch == batch


def test_every_size_has_a_recipe_and_pretraining_keeps_its_own() -> None:
    assert {of_size(name) for name in SIZES} <= set(RECIPES.names())
    assert not set(recipe_names()) & set(RECIPES.names())


@pytest.mark.parametrize(
    ("size", "recipe"),
    [("tiny", "tiny"), ("small", "base"), ("base", "base"), ("xlarge", "large"), ("isotropic_small", "tiny")],
)
def test_fcmae_weights_of_v1_take_the_recipe_of_v2_s_size(size: str, recipe: str) -> None:
    assert of_size(f"convnext_{size}") == f"finetune_{recipe}"


def test_few_labels_have_a_recipe_for_small_networks_and_one_for_others(
    tmp_path: Path, colors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The measured one has a peak learning rate that is high for large networks."""
    data = FinetuneDataConfig(path=str(colors))
    for name in SIZES:
        monkeypatch.setattr(
            read, "read_weights", lambda *_, name=name, **__: Weights("", "timm", ModelConfig(name=name))
        )
        recipe = recipes.recipe_for(FinetuneConfig(weights=str(tmp_path), data=data))
        is_small = name.endswith(("_atto", "_femto", "_pico", "_nano"))
        assert recipe == ("few_labels" if is_small else "few_labels_large")
    assert recipes.recipe_for(FinetuneConfig(weights="convnextv2_base.fcmae", data=data)) == "few_labels_large"
    assert recipes.recipe_for(FinetuneConfig(weights="scratch", data=data)) == "few_labels"
    for recipe, peak in (("few_labels", 3e-3), ("few_labels_large", 1e-3)):
        config = parse_config(["x", "--config", recipe, "--data", str(colors)])
        assert peak_learning_rate(config.train, 32) == pytest.approx(peak)


@pytest.mark.parametrize("name", ["convnext_tiny", "convnextv2_tiny"])
def test_weights_choose_between_the_recipes_of_v1_and_v2(
    name: str, tmp_path: Path, colors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 10,000 images on: by the size after FCMAE; that after supervised training where there is a classifier."""
    monkeypatch.setattr(recipes, "FEW", 10)
    found = Weights("a file", "timm", ModelConfig(name=name))
    monkeypatch.setattr(read, "read_weights", lambda *_, **__: found)
    data = FinetuneDataConfig(path=str(colors))

    def chosen(weights: object) -> str:
        return recipes.recipe_for(FinetuneConfig(weights=str(weights), data=data))

    assert chosen(tmp_path) == "finetune_tiny"
    found.head["head.fc.weight"] = torch.zeros(3, 768)
    supervised = "finetune_v1_22k_1k" if name == "convnext_tiny" else "finetune_22k_1k_nano"
    assert chosen(tmp_path) == supervised
    assert chosen(f"{name}.fb_in1k") == supervised
    assert chosen("scratch") == "finetune_v1"


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("convnext_base.fb_in22k", "finetune_v1_22k_1k"),
        ("convnext_large.fb_in22k_ft_in1k", "finetune_v1_22k_1k_large"),
        ("convnext_tiny.in12k", "finetune_v1_22k_1k"),
        ("convnext_base", "finetune_v1_22k_1k"),  # timm's default tag is supervised
        ("convnext_base.clip_laion2b_augreg_ft_in12k_in1k", "finetune_v1_22k_1k"),
        ("convnext_base.clip_laion2b", "finetune_base"),
        ("convnext_small.dinov3_lvd1689m", "finetune_base"),
        ("convnextv2_nano.fcmae_ft_in22k_in1k", "finetune_22k_1k_nano"),
        ("convnextv2_atto.fcmae_ft_in1k", "finetune_22k_1k_nano"),
        ("convnextv2_large.fcmae_ft_in1k", "finetune_22k_1k_base"),
        ("convnextv2_huge.fcmae_ft_in22k_in1k_384", "finetune_22k_1k_huge"),
        ("convnextv2_huge.fcmae", "finetune_huge"),
    ],
)
def test_the_tag_says_whether_timm_s_weights_are_supervised(
    name: str, recipe: str, colors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "FEW", 10)
    assert recipes.recipe_for(FinetuneConfig(weights=name, data=FinetuneDataConfig(path=str(colors)))) == recipe


@pytest.mark.parametrize("name", [name for name in RECIPES.names() if name not in ("few_labels", "few_labels_large")])
def test_recipes_get_no_learning_rate_warning(name: str) -> None:
    train = parse_config(["--config", name]).train
    assert learning_rate_advice(train, train.effective_batch or train.batch_size or 64) is None


def test_the_papers_rate_with_a_small_batch_gets_a_value_that_is_better() -> None:
    """Linear in the batch, it is for 1,024 images."""
    train = parse_config(["--config", "finetune_atto", "--train.effective_batch", "16"]).train
    assert learning_rate_advice(train, 16) == (
        "a peak learning rate of 1.3e-05 with 16 images per step is low: training will be slow; "
        "--train.base_lr 0.016 makes it 1.0e-03"
    )
    better = parse_config(["--config", "finetune_atto", "--train.effective_batch", "16", "--train.base_lr", "0.016"])
    assert learning_rate_advice(better.train, 16) is None

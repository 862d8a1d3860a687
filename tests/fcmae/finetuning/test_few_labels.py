"""The recipes for few labels: what follows from the images, the batch and the weights, and that what is given wins."""

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from fcmae.cli.finetune_parser import config_from, parse_config
from fcmae.errors import UserError
from fcmae.finetune import main
from fcmae.finetuning import few_labels
from fcmae.finetuning.config import FinetuneConfig
from fcmae.finetuning.labels import labeled_set
from fcmae.training.batch import peak_learning_rate
from tests.fcmae.labeled_images import COLORS, fill


@pytest.mark.parametrize(
    ("images", "epochs"), [(1, 60), (197, 60), (333, 60), (400, 50), (600, 33), (1969, 30), (9999, 30)]
)
def test_epochs_follow_from_the_images(images: int, epochs: int) -> None:
    """60, 30 and 30 of 197, 600 and 1,969 images were measured."""
    assert few_labels.epochs(images) == epochs


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """400 images to train on."""
    for part, count in (("train", 400), ("val", 3)):
        for number, (name, color) in enumerate(COLORS.items()):
            fill(tmp_path / part / name, color, count // 3 + (number < count % 3))
    return tmp_path


def both(*flags: str, **keywords: Any) -> list[FinetuneConfig]:
    """The same from the command line and from Python."""
    try:
        return [parse_config(flags), config_from((), keywords)]
    finally:
        labeled_set.cache_clear()


def test_the_default_for_few_images(many: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    data = str(many)
    for config in both("convnextv2_atto.fcmae", "--data", data, weights="convnextv2_atto.fcmae", data=data):
        train = config.train
        assert (train.epochs, train.warmup, train.batch_size, train.layer_decay) == (50, 5.0, 32, 0.8)
        assert peak_learning_rate(train, 32) == pytest.approx(3e-3)
    line = "--config few_labels has --train.epochs 50 --train.warmup_epochs 5 --train.base_lr"
    assert line in caplog.text


@pytest.mark.parametrize(
    ("setting", "value", "processes", "effective"),
    [("batch_size", 128, 1, 128), ("effective_batch", 256, 1, 256), ("accumulation_steps", 4, 1, 128),
     ("batch_size", 16, 8, 128)],
)  # fmt: skip
def test_the_peak_is_the_same_for_every_batch(
    many: Path, monkeypatch: pytest.MonkeyPatch, setting: str, value: int, processes: int, effective: int
) -> None:
    """Scaled linearly it was 6e-3 at 64 images, at which random weights diverged."""
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    flags = ("x", "--config", "few_labels", "--data", str(many), f"--train.{setting}", str(value))
    keywords = {"weights": "x", "config": "few_labels", "data": str(many), setting: value}
    for config in both(*flags, **keywords):
        assert peak_learning_rate(config.train, effective) == pytest.approx(3e-3)


@pytest.mark.parametrize(("recipe", "decay"), [("few_labels", 0.8), ("few_labels_large", 0.9)])
def test_random_weights_are_trained_alike(many: Path, recipe: str, decay: float) -> None:
    """Without layer decay more of them stayed at the largest class."""
    for weights in ("scratch", "x"):
        for config in both(weights, "--config", recipe, "--data", str(many), weights=weights, config=recipe, data=many):
            assert config.train.layer_decay == decay


def test_what_is_given_wins(many: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("train:\n  base_lr: 0.01\n  epochs: 20\n")
    flags = (
        "scratch",
        "--config",
        "few_labels",
        "--config",
        str(mine),
        "--data",
        str(many),
        "--train.layer_decay",
        "0.7",
    )
    keywords = {"weights": "scratch", "config": ["few_labels", mine], "data": many, "train": {"layer_decay": 0.7}}
    for config in both(*flags, **keywords):
        train = config.train
        assert (train.base_lr, train.epochs, train.layer_decay) == (0.01, 20, 0.7)
        assert train.warmup == 2.0  # a tenth of the epochs that were given


def test_without_images_nothing_is_computed(tmp_path: Path) -> None:
    """What is missing is said later."""
    for config in both("x", "--config", "few_labels", weights="x", config="few_labels"):
        assert config.train.base_lr is None
    with pytest.raises(UserError, match="nowhere does not exist"):
        both("x", "--config", "few_labels", "--data", str(tmp_path / "nowhere"))


def test_a_resumed_run_keeps_its_own(
    colors: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """With more epochs, without WEIGHTS, and after images were added; they were refused for flags nobody gave."""
    images, output = tmp_path / "images", tmp_path / "run"
    shutil.copytree(colors, images)
    same = ("--data", str(images), "--output", str(output), "--model.img_size", "32", "--data.num_workers", "0")
    assert main(["scratch", *same, "--train.epochs", "1", "--train.batch_size", "8"]) == 0
    for epochs in (2, 3):
        caplog.clear()
        shutil.copy(next((colors / "red").glob("*.png")), images / "red" / f"added-{epochs}.png")
        assert main([*same, "--train.epochs", str(epochs), "--train.batch_size", "8"]) == 0, caplog.text
        resumed = yaml.safe_load((output / "config.yaml").read_text())["train"]
        assert resumed["warmup_epochs"] == 0.1


def test_what_is_computed_is_printed(many: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is made of it trains the same."""
    for flags in ((), ("--config", "few_labels")):
        with pytest.raises(SystemExit) as ended:
            parse_config(["scratch", *flags, "--data", str(many), "--print_config"])
        assert ended.value.code == 0
        printed = yaml.safe_load(capsys.readouterr().out)["train"]
        expected = {"epochs": 50, "warmup_epochs": 5.0, "layer_decay": 0.8, "base_lr": 0.024, "batch_size": 32}
        assert {name: printed[name] for name in expected} == pytest.approx(expected)
    with pytest.raises(SystemExit):
        parse_config(["--print_config"])  # no images to choose by: the defaults
    assert yaml.safe_load(capsys.readouterr().out)["train"]["batch_size"] is None
    labeled_set.cache_clear()

"""A YAML file of settings: what is wrong in it is named with the file, the line and what was meant."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fcmae.cli.pretrain_parser import config_from, parse_config
from fcmae.cli.settings_file import read_settings
from fcmae.config import PretrainConfig
from fcmae.errors import UserError


def test_values_and_lines() -> None:
    text = "# mine\nmodel:\n  name: convnextv2_tiny\n\ntrain: {epochs: 3,\n  base_lr: 1}\ndata.path: images\nlog:\n"
    file = read_settings("mine.yaml", text, PretrainConfig)
    assert file.values["train"] == {"epochs": 3, "base_lr": 1}
    lines = {"model": 2, "model.name": 3, "train": 5, "train.epochs": 5, "train.base_lr": 6, "data.path": 7, "log": 8}
    assert file.lines == lines


WRONG = [
    ("train:\n  epoch: 3\n", "line 2: train.epoch is not a setting; the nearest is train.epochs"),
    ("seed: 1\nepochs: 3\n", "line 2: epochs is not a setting; the nearest is train.epochs"),
    ("trian:\n  epochs: 3\n", "line 1: trian is not a setting; the nearest is train"),
    ("train:\n  lr: 1e-3\n", "line 2: train.lr is not a setting; the nearest is train.base_lr"),
    ("train:\n  epochs: many\n", "line 2: train.epochs: Expected a whole number. Got value: many"),
    ("train:\n  epochs: [1, 2]\n", "line 2: train.epochs: Expected a whole number. Got value: [1, 2]"),
    ("seed: 1\ntrain: {mask_ratio: 1.5}\n", "line 2: train.mask_ratio must be between 0 and 1, got 1.5"),
    ("data:\n  crop_scale: 0.2\n", "line 2: data.crop_scale takes 2 values, such as --data.crop_scale 0.2,1; got 0.2"),
    ("data: {mean: [0.5]}\n", "line 1: data.mean must have one value per channel"),
    ("train:\n  epochs: 3\nseed: 1\ntrain:\n  base_lr: 1\n", "line 4: train is given twice; it is in line 1 too"),
    ("train:\n  epochs: 3\n  epochs: 4\n", "line 3: train.epochs is given twice; it is in line 2 too"),
    ("model: convnextv2_tiny\n", "line 1: model is a group of settings; write model: {name: convnextv2_tiny}"),
    ("train: 3\n", "line 1: train is a group of settings; write train: {epochs: …}"),
    ("model:\n  name: convnextv2_tinny\n", "convnext_isotropic_large; the nearest is convnextv2_tiny"),
    ("train:\n\tepochs: 3\n", "line 2: cannot be read as YAML: a tab cannot indent; use spaces"),
    ("train:\n  epochs: 3\n seed: 4\n", "line 3: cannot be read as YAML"),
    ("seed: !!python/object:os.system x\n", "line 1: cannot be read as YAML: only plain values are read"),
    ("train:\n  <<: *nope\n", "line 2: cannot be read as YAML: found undefined alias 'nope'"),
    ("1: 2\n", "line 1: 1 is not the name of a setting"),
    ("just words\n", "holds no settings; expected lines such as 'seed: 1'"),
    ("train:\n  compile: yess\n", "line 2: train.compile: Expected true or false. Got value: yess"),
    ("output: ''\n", "line 1: output is empty; give a folder"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
@pytest.mark.parametrize("read", [lambda file: parse_config(["--config", file]), lambda file: config_from((file,), {})])
def test_what_is_wrong_is_named_with_file_and_line(
    tmp_path: Path, text: str, message: str, read: Callable[[str], object]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        read(str(file))
    assert str(error.value).startswith(f"--config {file}")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_last_file_that_gave_a_value_is_named_and_no_file_for_an_option(tmp_path: Path) -> None:
    for name, epochs in (("a", -1), ("b", -2)):
        (tmp_path / f"{name}.yaml").write_text(f"seed: 1\ntrain:\n  epochs: {epochs}\n")
    files = ["--config", str(tmp_path / "a.yaml"), "--config", str(tmp_path / "b.yaml")]
    with pytest.raises(UserError, match=r"b\.yaml, line 3: train\.epochs must be at least 1, got -2"):
        parse_config(files)
    with pytest.raises(UserError, match=r"^--train\.epochs must be at least 1, got -3"):
        parse_config([*files, "--train.epochs", "-3"])
    with pytest.raises(UserError, match=r"^--model\.name 'x' is not known"):  # the demo recipe has one too
        parse_config(["--model", "x"])
    with pytest.raises(UserError, match=r"^--data-path is not an option; the nearest is --data\.path"):
        parse_config(["--data-path", "x"])


def test_numbers_in_any_notation(tmp_path: Path) -> None:
    """YAML 1.1 reads 1e-3 as text; a learning rate is a number all the same, on both ways in."""
    file = tmp_path / "mine.yaml"
    file.write_text("train:\n  base_lr: 1e-3\ndata.path: x\n")
    assert parse_config(["--config", str(file)]).train.base_lr == 1e-3
    assert config_from((), {"config": file}).train.base_lr == 1e-3

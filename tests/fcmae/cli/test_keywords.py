"""Keyword arguments to a settings dataclass: which setting a name means, what a group may be, and what is refused."""

import inspect
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcmae.cli.fields import groups, leaves
from fcmae.cli.keywords import keyword_function, parameters, settings_from
from fcmae.cli.pretrain_parser import config_from, parse_config
from fcmae.collapse import CollapseConfig, collapse
from fcmae.config import DataConfig, LogConfig, PretrainConfig, PretrainModelConfig
from fcmae.config.left_open import OpenConfig
from fcmae.convert import ConvertConfig, convert
from fcmae.errors import UserError
from fcmae.evaluate import EvaluateConfig, evaluate
from fcmae.export import ExportConfig, export
from fcmae.pretrain import pretrain
from fcmae.reconstruct import ReconstructConfig, reconstruct
from fcmae.report import ReportConfig, report

COMMANDS: dict[type, Callable[..., Any]] = {
    PretrainConfig: pretrain, EvaluateConfig: evaluate, CollapseConfig: collapse, ReconstructConfig: reconstruct,
    ConvertConfig: convert, ReportConfig: report, ExportConfig: export,
}  # fmt: skip
# a value of each type that is no field's default and inside every range
OTHER = {int: 2, float: 0.25, str: "other", bool: True}


def config(**keywords: Any) -> PretrainConfig:
    return config_from((), {"data": "images"} | keywords)


def value_at(settings: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        settings = getattr(settings, name)
    return settings


def plain_names(kind: type) -> dict[str, str]:
    """Plain name → dotted, for the names that one setting has."""
    dotted = list(leaves(kind))
    last = [name.rpartition(".")[2] for name in dotted]
    return {
        name: full
        for name, full in zip(last, dotted, strict=True)
        if (last.count(name) == 1 or name == full) and name not in groups(kind)
    }


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_plain_name_sets_its_field_and_no_other(kind: type) -> None:
    """Of every command, every name that one setting has."""
    needed = {leaf.name: "x" for leaf in leaves(kind).values() if leaf.is_positional}
    start = settings_from(kind, (), needed)
    for name, dotted in plain_names(kind).items():
        other = OTHER.get(leaves(kind)[dotted].hint)
        if (
            other is None
            or name
            in {"name", "stem_stride", "img_size", "dataset", "accumulation_steps", "cache_size"} | needed.keys()
        ):
            continue  # of a type that another test has, or one with few values
        if other is True:
            other = not value_at(start, dotted)
        extra = {"warmup_epochs": 1} if name == "epochs" else {}
        found = settings_from(kind, (), needed | {name: other} | extra)
        differ = {full for full in leaves(kind) if value_at(found, full) != value_at(start, full)}
        assert value_at(found, dotted) == other
        assert differ - {"train.warmup_epochs"} <= {dotted}, name


@pytest.mark.parametrize("kind", COMMANDS)
def test_the_signature_shows_the_settings(kind: type) -> None:
    """Every unambiguous name with the dataclass' default and type, every group, and nothing that is not accepted."""
    shown = inspect.signature(COMMANDS[kind]).parameters
    plain = plain_names(kind)
    expected = {leaf.name for leaf in leaves(kind).values() if leaf.is_positional} | groups(kind).keys() | plain.keys()
    assert shown.keys() - {"config"} == expected
    for name, parameter in shown.items():
        if name in plain and not leaves(kind)[plain[name]].is_positional:
            assert parameter.default == leaves(kind)[plain[name]].default
            assert parameter.annotation == leaves(kind)[plain[name]].hint
            assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
    assert COMMANDS[kind].__doc__
    assert COMMANDS[kind].__name__ in COMMANDS[kind].__module__


def test_groups_by_name_value_dict_and_dataclass() -> None:
    for call in (*({"data": one} for one in ("images", Path("images"), {"path": "images"})), {"path": "images"}):
        found = config_from((), call)
        assert isinstance(found, OpenConfig)  # the recipe for small sets may choose the rest
        assert found.settled({}) == PretrainConfig(data=DataConfig(path="images"))
    whole = config(data=DataConfig(path="images"))
    assert isinstance(whole, OpenConfig)
    assert not any(name.startswith("data.") for name in whole.left_open)
    assert whole.settled({}) == PretrainConfig(data=DataConfig(path="images"))
    assert config(model="convnextv2_tiny").model == PretrainModelConfig("convnextv2_tiny")
    assert config(log={"every": 5, "pictures_every": 0}).log == LogConfig(every=5, pictures_every=0)
    assert config_from((), {"data": None}) == config_from((), {})


def test_a_group_and_a_name_of_it_are_put_together() -> None:
    found = config(data={"path": "images", "hflip": 0.25}, num_workers=2, repeat=3)
    assert found.data == DataConfig(path="images", hflip=0.25, num_workers=2, repeat=3)


def test_it_is_what_the_command_line_makes_of_the_same() -> None:
    ours = config(
        epochs=100, img_size=(64, 96), crop_scale=[0.5, 1], cache=True, clip_grad=None, mean=(0.1, 0.2, 0.3),
        checkpoint_stages=(0, 1), base_lr=1e-3, monitor={"every": 3}, config="pretrain_tiny",
    )  # fmt: skip
    line = (
        "--data.path images --config pretrain_tiny --train.epochs 100 --model.img_size 64,96 --data.crop_scale 0.5,1 "
        "--data.cache --train.clip_grad null --data.mean 0.1,0.2,0.3 --model.checkpoint_stages 0,1 "
        "--train.base_lr 1e-3 --monitor.every 3"
    )
    assert ours == parse_config(line.split())


def test_recipes_and_files_come_first(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train: {epochs: 7, warmup_epochs: 1, base_lr: 1e-3}\n")
    found = config_from(([Path("pretrain_base"), file],), {"data": "images", "batch_size": 3})
    assert (found.model.name, found.train.epochs, found.train.batch_size) == ("convnextv2_base", 7, 3)
    assert found.train.base_lr == 1e-3
    assert config_from((), {}) == parse_config([])  # the demo
    assert config_from((), {"seed": 1}) == replace(parse_config([]), seed=1)


def test_a_whole_configuration_is_taken_as_it_is() -> None:
    whole = PretrainConfig(seed=5)
    assert config_from((whole,), {}) is whole
    assert config_from((), {"config": whole}) is whole
    with pytest.raises(UserError, match=r"a whole PretrainConfig takes no other arguments"):
        config_from((whole,), {"seed": 1})


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(0.01, 0.99), min_size=1, max_size=5, unique=True))
def test_lists_of_any_kind(ratios: list[float]) -> None:
    text = ",".join(map(repr, ratios))
    for given_as in (ratios, tuple(ratios), np.array(ratios), text, f"[{text}]"):
        assert settings_from(ReconstructConfig, ("run",), {"mask_ratios": given_as}).mask_ratios == tuple(ratios)
    one = settings_from(ReconstructConfig, ("run",), {"mask_ratios": ratios[0]})
    assert one.mask_ratios == (ratios[0],)


def test_one_item_stands_for_a_list_of_it() -> None:
    for models in ("a,b=runs/a", ["a,b=runs/a"], Path("a,b=runs/a")):
        assert settings_from(CollapseConfig, (models,), {}).models == ("a,b=runs/a",)
    found = settings_from(CollapseConfig, (["a", Path("b")],), {"layers": [0.1, "stages.0.blocks.1"]})
    assert (found.models, found.layers) == (("a", "b"), ("0.1", "stages.0.blocks.1"))
    assert settings_from(EvaluateConfig, (), {"ckpt": "a", "k": np.int64(5)}).k == 5


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"epoch": 3}, "epoch is not a setting; the nearest is epochs"),
        ({"frobnicate": 3}, "frobnicate is not a setting"),
        ({"every": 3}, "every is a setting of several groups (log.every, monitor.every); write log={'every': …} or "),
        ({"log": {"evry": 3}}, "log has no setting 'evry'; the nearest is every"),
        ({"log": 3}, "log must be a dict of every, pictures_every"),
        ({"log": DataConfig()}, "log must be a LogConfig, got a DataConfig"),
        ({"epochs": 3, "train": {"epochs": 4}}, "train.epochs is given twice"),
        ({"data": "a", "path": "b"}, "data.path is given twice"),
        ({"epochs": "many"}, "train.epochs: Expected a whole number. Got value: many"),
        ({"epochs": True}, "train.epochs: Expected a whole number. Got value: True"),
        ({"epochs": 2.5}, "train.epochs: Expected a whole number. Got value: 2.5"),
        ({"cache": 3}, "data.cache: Expected true or false. Got value: 3"),
        ({"data": 3}, "data.path: Expected texts (a,b,…) or text or null. Got value: 3"),
        ({"crop_scale": 0.5}, "data.crop_scale takes 2 values, such as --data.crop_scale 0.2,1; got 0.5"),
        ({"seed": None}, "seed is null; give a value, or leave it out for 0"),
        ({"mask_ratio": 1.0}, "train.mask_ratio must be between 0 and 1, got 1.0"),
        ({"base_lr": float("nan")}, "train.base_lr must be finite, got nan"),
        ({"mean": (0.5,)}, "data.mean must have one value per channel: model.in_chans is 3, got (0.5,)"),
        ({"model": "resnet50"}, "model.name 'resnet50' is not known"),
        ({"config": "nope"}, "nope is neither a file nor a recipe"),
        ({"config": 3}, "config must be a PretrainConfig, a recipe's name or a YAML file, got 3"),
    ],
)
def test_what_is_wrong_gets_one_line(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        config(**keywords)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert isinstance(error.value, ValueError)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "src is missing"),
        (("a",), "dst is missing"),
        (("a", "b", "timm"), "unexpected argument 'timm': the function takes 2 arguments by position (src, dst)"),
    ],
)
def test_missing_and_unexpected_arguments(args: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError) as error:
        convert(*args)
    assert message in str(error.value)


def test_a_name_of_the_top_level_goes_before_one_of_a_group() -> None:
    """monitor.images is hidden by no other; of the collapse analysis images is its own."""
    assert config(images=9).monitor.images == 9
    assert settings_from(CollapseConfig, ("a",), {"images": 9}).images == 9


def test_the_decorator_keeps_name_and_doc() -> None:
    @keyword_function(ReportConfig)
    def made(config: ReportConfig) -> str:
        """What it does."""
        return config.run

    assert (made.__name__, made.__doc__) == ("made", "What it does.")
    assert made("a") == made(run=Path("a")) == made(ReportConfig("a")) == "a"
    assert [one.name for one in parameters(ReportConfig)] == [field.name for field in fields(ReportConfig)]
    assert inspect.signature(made).return_annotation is str

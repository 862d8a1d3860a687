"""The command line of ``python -m fcmae.pretrain``: flags and YAML files to a PretrainConfig, errors to one line."""

import argparse
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace, set_parsing_settings

from fcmae.config import DataConfig, LogConfig, PretrainConfig, TrainConfig
from fcmae.errors import UserError
from fcmae.models.config import ModelConfig

DEMO = "demo"
GROUPS = {"model": ModelConfig, "data": DataConfig, "train": TrainConfig, "log": LogConfig}

DESCRIPTION = """Pretrain a ConvNeXt on unlabelled images with FCMAE.

With neither --config nor --data.path it runs the demo recipe: a small network on bundled photographs, a few minutes on
two cores. Options override the configuration file; later files override earlier ones."""


class _HelpFormatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """jsonargparse's, with types and defaults; the description keeps its line breaks."""


def recipe_names() -> list[str]:
    """Names of the shipped recipes, which --config takes without a path."""
    return sorted(entry.name.removesuffix(".yaml") for entry in files("fcmae.configs").iterdir() if _is_yaml(entry))


def _is_yaml(entry: Any) -> bool:
    return entry.name.endswith(".yaml")


def build_parser() -> ArgumentParser:
    """The parser; defaults and help come from the dataclasses."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog="python -m fcmae.pretrain",
        description=DESCRIPTION,
        epilog=f"Shipped recipes: {', '.join(recipe_names())}. --config takes one of these names, or a path.",
        formatter_class=_HelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file, or the name of a shipped recipe.")
    parser.add_class_arguments(PretrainConfig)
    return parser


def parse_config(argv: Sequence[str]) -> PretrainConfig:
    """The configuration that these arguments ask for.

    Raises:
        UserError: an unknown flag, a value of the wrong type or out of range, a file that does not exist.
    """
    parser = build_parser()
    try:
        parsed = parser.parse_args(_with_recipes(list(argv)))
    except argparse.ArgumentError as error:
        raise UserError(_one_line(str(error))) from None
    groups: dict[str, Any] = {}
    for name, make in GROUPS.items():
        if not isinstance(parsed[name], Namespace):
            raise UserError(f"--{name} is a group of options, got {parsed[name]!r}")
        try:
            groups[name] = make(**_fields(parsed[name]))
        except ValueError as error:
            raise UserError(f"--{name}.{error}") from None
    try:
        config = PretrainConfig(**groups, output=parsed.output, seed=parsed.seed, resume=parsed.resume)
    except ValueError as error:
        raise UserError(f"--{error}") from None
    try:
        config.data.mean_std(config.model.in_chans)
    except ValueError as error:
        raise UserError(f"--data.{error}") from None
    return config


def _fields(namespace: Namespace) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in namespace.as_dict().items()}


def _with_recipes(argv: list[str]) -> list[str]:
    """The arguments, recipes' names turned into their files, and the demo recipe first where no other data is named."""
    out: list[str] = []
    names_data = False
    takes_value = False
    for arg in argv:
        flag, equals, value = arg.partition("=")
        names_data |= flag in ("--config", "--data.path", "--data")
        if takes_value:
            out.append(_recipe_path(arg))
        elif flag == "--config" and equals:
            out.append(f"--config={_recipe_path(value)}")
        else:
            out.append(arg)
        takes_value = arg == "--config"
    return out if names_data else ["--config", _recipe_path(DEMO), *out]


def _recipe_path(given: str) -> str:
    """A path that exists stays; a recipe's name, with or without configs/ and .yaml, becomes the shipped file."""
    name = Path(given).name.removesuffix(".yaml")
    parents = (Path("."), Path("configs"))
    if Path(given).is_file() or Path(given).parent not in parents or name not in recipe_names():
        return given
    with as_file(files("fcmae.configs") / f"{name}.yaml") as path:
        return str(path)


def _one_line(message: str) -> str:
    """jsonargparse's message without line breaks and class signs, the key as a flag."""
    text = " ".join(message.split()).replace('Parser key "', "--").replace('":', ":", 1)
    return text.replace("<class '", "").replace("'>", "").replace("typing.Literal", "one of ")

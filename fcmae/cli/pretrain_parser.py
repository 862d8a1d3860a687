"""The command line of ``python -m fcmae.pretrain``: flags and YAML files to a PretrainConfig, errors to one line."""

import argparse
import itertools
import re
from collections.abc import Sequence
from dataclasses import fields
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace, set_parsing_settings

from fcmae.config import DataConfig, LogConfig, MonitorConfig, PretrainConfig, PretrainModelConfig, TrainConfig
from fcmae.errors import UserError

DEMO = "demo"
# Names that --config took when each size had a recipe of its own. They mean pretrain with that --model.name.
SIZE_RECIPES = {f"pretrain_{size}": f"convnextv2_{size}" for size in
                ("atto", "femto", "pico", "nano", "tiny", "base", "large", "huge")}  # fmt: skip
GROUPS = {
    "model": PretrainModelConfig,
    "data": DataConfig,
    "train": TrainConfig,
    "log": LogConfig,
    "monitor": MonitorConfig,
}

DESCRIPTION = """Pretrain a ConvNeXt on unlabeled images with FCMAE.

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
        values = _fields(parsed[name])
        for field in fields(make):
            if values[field.name] is None and field.default is not None:
                raise UserError(f"--{name}.{field.name} is null; give a value, or leave it out for {field.default}")
        try:
            groups[name] = make(**values)
        except ValueError as error:
            raise UserError(f"--{name}.{error}") from None
    if parsed.seed is None or parsed.resume is None:
        raise UserError(f"--{'seed' if parsed.seed is None else 'resume'} is null; give a value, or leave it out")
    try:
        config = PretrainConfig(**groups, output=parsed.output, seed=parsed.seed, resume=parsed.resume)
    except ValueError as error:
        raise UserError(f"--{error}") from None
    try:
        config.data.normalizer(config.model.in_chans)
    except ValueError as error:
        raise UserError(f"--data.{error}") from None
    return config


def _fields(namespace: Namespace) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in namespace.as_dict().items()}


def _with_recipes(argv: list[str]) -> list[str]:
    """The arguments, files first, so that options override them wherever they stand on the line.

    Recipes' names are turned into their files; the demo recipe comes first where neither data nor a file is named.
    """
    configs: list[str] = []
    options: list[str] = []
    names_data = False
    arguments = iter(argv)
    for arg in arguments:
        flag, equals, value = arg.partition("=")
        names_data |= flag in ("--config", "--data.path", "--data")
        if flag != "--config":
            options.append(arg)
        elif equals:
            configs.append(f"--config={_recipe_path(value)}")
        else:
            configs += ["--config", *(_recipe_path(value) for value in itertools.islice(arguments, 1))]
    if not names_data:
        configs = ["--config", _recipe_path(DEMO)]
    return configs + options + _batch_of_options(options)


def _batch_of_options(options: list[str]) -> list[str]:
    """Options override files: --train.batch_size and accumulation_steps together override a file's effective_batch."""
    given = {option.partition("=")[0] for option in options}
    if "--train.effective_batch" in given or not {"--train.batch_size", "--train.accumulation_steps"} <= given:
        return []
    return ["--train.effective_batch=null"]


def _recipe_path(given: str) -> str:
    """What jsonargparse's --config takes: a file, or for a name in SIZE_RECIPES the YAML text itself.

    The name of a shipped recipe may have configs/ before it and .yaml after it; a file of that name comes first.

    Raises:
        UserError: neither a file nor a recipe, or a file that holds no YAML mapping.
    """
    name = Path(given).name.removesuffix(".yaml")
    if not Path(given).is_file() and Path(given).parent in (Path("."), Path("configs")):
        if name in recipe_names():
            with as_file(files("fcmae.configs") / f"{name}.yaml") as path:
                return str(path)
        if name in SIZE_RECIPES:
            recipe = yaml.safe_load((files("fcmae.configs") / "pretrain.yaml").read_text(encoding="utf-8"))
            recipe["model"]["name"] = SIZE_RECIPES[name]
            return yaml.safe_dump(recipe)
    if Path(given).is_dir():
        raise UserError(f"--config {given} is a folder; give a YAML file, such as a run's config.yaml")
    if not Path(given).is_file():
        raise UserError(f"--config {given} is neither a file nor a recipe; recipes: {', '.join(recipe_names())}")
    try:
        content = yaml.safe_load(Path(given).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"--config {given} cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"--config {given} holds no settings; a line of it looks like 'seed: 1'")
    return given


def _one_line(message: str) -> str:
    """jsonargparse's message without line breaks and class signs, the key as a flag."""
    text = " ".join(message.split()).replace('Parser key "', "--").replace('":', ":", 1)
    text = text.replace("<class '", "").replace("'>", "").replace("a typing.Literal", "one of ")
    text = re.sub(r"Does not validate.* Subtypes: \[(.*)\] Errors: .* Given value: ", _expected_union, text)
    return text.replace("Expected a int.", "Expected a whole number.").replace(
        "Expected a float.", "Expected a number."
    )


def _expected_union(match: re.Match[str]) -> str:
    kinds = re.split(r", (?![^\[]*\])", match[1])  # at commas outside brackets
    words = [{"int": "a whole number", "float": "a number", "NoneType": "null"}.get(kind, kind) for kind in kinds]
    lists = " (written [1,2])" if "tuple" in match[1] else ""
    return f"Expected {' or '.join(words)}{lists}. Got value: "

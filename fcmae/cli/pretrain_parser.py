"""Settings of pretraining: flags or keywords override YAML files; recipes by name; the demo recipe by default."""

import inspect
import itertools
import sys
from collections.abc import Container, Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from fcmae.cli.keywords import nested_values, settings_from
from fcmae.cli.parser import from_values, make_parser, parsed
from fcmae.config import PretrainConfig
from fcmae.errors import UserError

DEMO = "demo"
PROG = "python -m fcmae.pretrain"
# Older recipe names, one per model size. Each stands for the pretrain recipe with that --model.name.
SIZE_RECIPES = {f"pretrain_{size}": f"convnextv2_{size}" for size in
                ("atto", "femto", "pico", "nano", "tiny", "base", "large", "huge")}  # fmt: skip

DESCRIPTION = """Pretrain a ConvNeXt on unlabeled images with FCMAE.

With neither --config nor --data.path it runs the demo recipe: a small network on bundled photos, a few minutes on two
cores. Options override the configuration file; later files override earlier ones."""

CONFIG = inspect.Parameter(
    "config",
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    default=None,
    annotation=PretrainConfig | str | Path | Sequence[str | Path] | None,
)
"""The extra parameter of the function: a whole configuration, or recipes and YAML files; later ones override."""


def recipe_names() -> list[str]:
    """Names of the shipped recipes, which --config accepts without a path."""
    return sorted(entry.name.removesuffix(".yaml") for entry in files("fcmae.configs").iterdir() if _is_yaml(entry))


def _is_yaml(entry: Any) -> bool:
    return entry.name.endswith(".yaml")


def build_parser(prog: str = PROG) -> ArgumentParser:
    """The parser; defaults and help come from the dataclasses."""
    return make_parser(
        PretrainConfig,
        prog,
        description=DESCRIPTION,
        epilog=f"Shipped recipes: {', '.join(recipe_names())}. --config takes one of these names, or a path.",
        files="YAML file, or the name of a shipped recipe.",
    )


def parse_config(argv: Sequence[str] | None = None, prog: str = PROG) -> PretrainConfig:
    """Parse arguments, by default ``sys.argv[1:]``, into a configuration.

    Raises:
        UserError: an unknown flag, a value of the wrong type or out of range, a file that does not exist.
    """
    return parsed(PretrainConfig, build_parser(prog), _with_recipes(list(sys.argv[1:] if argv is None else argv)))


def config_from(args: Sequence[Any], keywords: Mapping[str, Any]) -> PretrainConfig:
    """The configuration for a call from Python, by the same rules as on the command line.

    Raises:
        UserError: as for :func:`parse_config`.
    """
    given = dict(keywords)
    if args and "config" not in given and not isinstance(args[0], PretrainConfig):
        args, given["config"] = args[1:], args[0]
    config = given.pop("config", None)
    if isinstance(config, PretrainConfig):
        args = (config, *args)
    if args:
        return settings_from(PretrainConfig, args, given)
    values = nested_values(PretrainConfig, (), given)
    names = [config] if isinstance(config, str | Path) else config
    if names is None:
        names = [] if "path" in values.get("data", {}) else [DEMO]
    if not isinstance(names, Sequence):
        raise UserError(f"config must be a PretrainConfig, a recipe's name or a YAML file, got {config!r}")
    from_files: dict[str, Any] = {}
    for name in names:
        source = _recipe_path(str(name))
        text = source if "\n" in source else Path(source).read_text(encoding="utf-8")
        from_files = _merged(from_files, yaml.safe_load(text))
    if _replaces_effective_batch(values.get("train", {})):
        values["train"]["effective_batch"] = None
    return from_values(PretrainConfig, _merged(from_files, values))


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two nested mappings; the second takes precedence."""
    merged = dict(first)
    for key, value in second.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _with_recipes(argv: list[str]) -> list[str]:
    """Reorder the arguments so that configuration files come first and options override them.

    Recipe names are replaced by their files. The demo recipe is used if neither data nor a file is given.
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
    """Extra options that unset a file's effective_batch if the options override it."""
    given = {option.partition("=")[0].removeprefix("--train.") for option in options}
    return ["--train.effective_batch=null"] if _replaces_effective_batch(given) else []


def _replaces_effective_batch(given: Container[str]) -> bool:
    """Whether these ``train`` settings override a file's effective_batch: both factors given, not the product."""
    return "batch_size" in given and "accumulation_steps" in given and "effective_batch" not in given


def _recipe_path(given: str) -> str:
    """The value for jsonargparse's --config: a file path, or the YAML text for a name in SIZE_RECIPES.

    A recipe name may have the prefix configs/ and the suffix .yaml; an existing file of that name takes precedence.

    Raises:
        UserError: neither a file nor a recipe, or a file that is not a YAML mapping.
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
        raise UserError(f"--config {given} holds no settings; expected lines such as 'seed: 1'")
    return given

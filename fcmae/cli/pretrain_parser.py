"""Settings of pretraining: flags or keywords override YAML files; recipes by name; the demo recipe by default."""

import contextlib
import inspect
import sys
from collections.abc import Container, Iterable, Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from fcmae.cli.keywords import nested_values, settings_from
from fcmae.cli.parser import from_values, make_parser, parsed
from fcmae.config import PretrainConfig
from fcmae.errors import UserError
from fcmae.runs.layout import run_of

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
    layers: list[dict[str, Any]] = []
    for name in names:
        layers.append(_settings_of(_recipe_path(str(name))) | _place(str(name)))
        from_files = _merged(from_files, layers[-1])
    overridden = _overridden(_group(layer.get("train")) for layer in [*layers, values])
    from_files = _merged(from_files, {"train": dict.fromkeys(overridden)})
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

    Recipe names are replaced by their files. A run's config.yaml brings the folder that it
    lies in. The demo recipe is used if neither data nor a file is given.
    """
    sources: list[str] = []
    options: list[str] = []
    names_data = False
    arguments = iter(argv)
    for arg in arguments:
        flag, equals, value = arg.partition("=")
        names_data |= flag in ("--config", "--data.path", "--data")
        if flag != "--config":
            options.append(arg)
        elif equals:
            sources.append(_recipe_path(value))
        elif (following := next(arguments, None)) is not None:
            sources.append(_recipe_path(following))
        else:
            options.append(arg)  # the parser says that its value is missing
    if not names_data:
        sources = [_recipe_path(DEMO)]
    layers = [*(_group(_settings_of(source).get("train")) for source in sources), _train_options(options)]
    nulls = [f"--train.{name}=null" for name in _overridden(layers)] if len(layers) > 1 else []
    from_files = [arg for source in sources for arg in (f"--config={source}", *_flags(_place(source)))]
    return from_files + options + nulls


def _place(source: str) -> dict[str, str]:
    """The output of a run's config.yaml: the folder that the file lies in, where it may have been moved or copied."""
    folder = None if "\n" in source or not Path(source).is_file() else run_of(Path(source))
    return {} if folder is None else {"output": str(folder)}


def _flags(settings: Mapping[str, str]) -> list[str]:
    return [f"--{name}={value}" for name, value in settings.items()]


def _overridden(layers: Iterable[Container[str]]) -> list[str]:
    """Settings of ``train`` that a later layer (a file, or the options) overrides by giving others of the batch.

    batch_size and accumulation_steps together replace an earlier effective_batch, which replaces an earlier
    accumulation_steps.
    """
    overridden: set[str] = set()
    for given in layers:
        if "effective_batch" in given:
            overridden.discard("effective_batch")
            overridden.add("accumulation_steps")
        elif "batch_size" in given and "accumulation_steps" in given:
            overridden.add("effective_batch")
        if "accumulation_steps" in given:
            overridden.discard("accumulation_steps")
    return sorted(overridden)


def _train_options(options: Iterable[str]) -> set[str]:
    """Names of the ``train`` settings among the options, those of ``--train '{…}'`` included."""
    names, arguments = set[str](), list(options)
    for number, option in enumerate(arguments):
        flag, equals, value = option.partition("=")
        if flag == "--train":
            text = value if equals else "".join(arguments[number + 1 : number + 2])
            with contextlib.suppress(yaml.YAMLError):  # the parser says what is wrong with it
                names.update(_group(yaml.safe_load(text)))
        elif flag.startswith("--train."):
            names.add(flag.removeprefix("--train."))
    return names


def _group(settings: object) -> dict[str, Any]:
    """A group of settings; none if it is not a group, which the parser says."""
    return settings if isinstance(settings, dict) else {}


def _settings_of(source: str) -> dict[str, Any]:
    """What :func:`_recipe_path` found, parsed."""
    return yaml.safe_load(source if "\n" in source else Path(source).read_text(encoding="utf-8"))


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

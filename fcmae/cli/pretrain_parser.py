"""Settings of pretraining: flags or keywords override YAML files; recipes by name; the demo recipe by default."""

import contextlib
import inspect
import sys
from collections.abc import Container, Iterable, Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jsonargparse import ArgumentParser

from fcmae.cli.fields import bare_fields, nearest
from fcmae.cli.keywords import nested_values, settings_from
from fcmae.cli.parser import from_values, make_parser, parsed
from fcmae.cli.settings_file import SettingsFile, placed, read_settings, read_text
from fcmae.config import PretrainConfig
from fcmae.errors import UserError
from fcmae.runs.layout import flat, run_of

DEMO = "demo"
PROG = "python -m fcmae.pretrain"
# Older recipe names, one per model size. Each stands for the pretrain recipe with that --model.name.
SIZE_RECIPES = {f"pretrain_{size}": f"convnextv2_{size}" for size in
                ("atto", "femto", "pico", "nano", "tiny", "base", "large", "huge")}  # fmt: skip

DESCRIPTION = """Pretrain a ConvNeXt on unlabeled images with FCMAE.

With neither --config nor --data.path it runs the demo recipe: a small network on bundled photos, a few minutes on two
cores. Options override the configuration file; later files override earlier ones."""

CONFIG_PARAMETER = inspect.Parameter(
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
    arguments, given = _with_recipes(list(sys.argv[1:] if argv is None else argv))
    try:
        return parsed(PretrainConfig, build_parser(prog), arguments)
    except UserError as error:
        options = {option.partition("=")[0].removeprefix("--") for option in arguments}
        named = options | {dotted for group, dotted in bare_fields(PretrainConfig).items() if group in options}
        raise placed(error, given, named) from None


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
    read = [_source(str(name)).file for name in names]
    for file in read:
        from_files = _merged(from_files, file.values)
    overridden = _overridden(_group(layer.get("train")) for layer in [*(file.values for file in read), values])
    from_files = _merged(from_files, {"train": dict.fromkeys(overridden)})
    try:
        return from_values(PretrainConfig, _merged(from_files, values))
    except UserError as error:
        raise placed(error, read, flat(values)) from None


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two nested mappings; the second takes precedence."""
    merged = dict(first)
    for key, value in second.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _with_recipes(argv: list[str]) -> tuple[list[str], list[SettingsFile]]:
    """Reorder the arguments so that configuration files come first and options override them; and those files.

    Recipe names are replaced by their files. A run's config.yaml brings the folder that it lies in. The demo recipe is
    used if neither data nor a file is given.
    """
    sources: list[_Source] = []
    options: list[str] = []
    names_data = False
    arguments = iter(argv)
    for arg in arguments:
        flag, equals, value = arg.partition("=")
        names_data |= flag in ("--config", "--data.path", "--data")
        if flag != "--config":
            options.append(arg)
        elif equals:
            sources.append(_source(value))
        elif (following := next(arguments, None)) is not None:
            sources.append(_source(following))
        else:
            options.append(arg)  # the parser says that its value is missing
    if not names_data:
        sources = [_source(DEMO)]
    layers = [*(_group(source.file.values.get("train")) for source in sources), _train_options(options)]
    nulls = [f"--train.{name}=null" for name in _overridden(layers)] if len(layers) > 1 else []
    ordered = [arg for source in sources for arg in source.arguments] + options + nulls
    return ordered, [source.file for source in sources]


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


class _Source(NamedTuple):
    """What one ``--config`` means."""

    arguments: list[str]
    """For jsonargparse: --config with a path, or with YAML text for a name in SIZE_RECIPES; and a run's --output."""
    file: SettingsFile


def _source(given: str) -> _Source:
    """The file or recipe that ``--config`` names.

    A recipe name may have the prefix configs/ and the suffix .yaml; an existing file of that name takes precedence.

    Raises:
        UserError: neither a file nor a recipe, or a file that is not a YAML mapping of known settings.
    """
    if not given:
        raise UserError(f"--config is empty; give a YAML file or a recipe: {', '.join(recipe_names())}")
    path, name = Path(given), Path(given).name.removesuffix(".yaml")
    if not path.is_file() and path.parent in (Path("."), Path("configs")):
        if name in recipe_names():
            with as_file(files("fcmae.configs") / f"{name}.yaml") as shipped:
                return _Source([f"--config={shipped}"], read_settings(given, read_text(shipped, given), PretrainConfig))
        if name in SIZE_RECIPES:
            recipe = yaml.safe_load((files("fcmae.configs") / "pretrain.yaml").read_text(encoding="utf-8"))
            recipe["model"]["name"] = SIZE_RECIPES[name]
            text = yaml.safe_dump(recipe)
            return _Source([f"--config={text}"], read_settings(given, text, PretrainConfig))
    if path.is_dir():
        raise UserError(f"--config {given} is a folder; give a YAML file, such as a run's config.yaml")
    if not path.is_file():
        hint = nearest(given, recipe_names())
        raise UserError(f"--config {given} is neither a file nor a recipe; recipes: {', '.join(recipe_names())}{hint}")
    file = read_settings(given, read_text(path, given), PretrainConfig)
    folder = run_of(path)  # a run is where its config.yaml lies: it may have been moved or copied
    if folder is None:
        return _Source([f"--config={given}"], file)
    file.values["output"] = str(folder)
    return _Source([f"--config={given}", f"--output={folder}"], file)

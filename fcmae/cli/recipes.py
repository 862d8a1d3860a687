"""Settings of a run: flags or keywords override YAML files; shipped recipes have names."""

import contextlib
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import yaml
from jsonargparse import ArgumentParser

from fcmae.cli.fields import bare_fields, nearest
from fcmae.cli.keywords import nested_values, settings_from
from fcmae.cli.parser import from_values, given_settings, make_parser, parsed
from fcmae.cli.settings_file import SettingsFile, placed, read_settings, read_text
from fcmae.errors import UserError
from fcmae.runs.layout import flat, run_of

S = TypeVar("S")


class Given(NamedTuple):
    """What the user gave, in files, flags and keywords."""

    recipes: list[str | None]
    """The shipped recipe of each ``--config`` in turn; None: a file."""
    settings: dict[str, Any]
    """By dotted name, those of the recipes included."""


class _Source(NamedTuple):
    """What one ``--config`` means."""

    arguments: list[str]
    """For jsonargparse: --config with a path, or with YAML text for an older name; and a run's --output."""
    file: SettingsFile
    recipe: str | None = None
    """The shipped recipe that it names."""


@dataclass(frozen=True)
class Recipes(Generic[S]):
    """The parser of a command whose settings come from recipes, files, flags and keywords."""

    kind: type[S]
    """The settings dataclass. Its groups ``train`` and ``data`` hold what the batch is made of, and ``path``."""
    description: str
    is_ours: Callable[[str], bool]
    """Whether a shipped recipe is one of this command."""
    default: str | None = None
    """The recipe where neither a file nor ``data.path`` is given."""
    older: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Older names: the recipe that each stands for, and the ``model.name`` in it."""

    def names(self) -> list[str]:
        """Names of the shipped recipes, which --config accepts without a path."""
        return sorted(name for name in _shipped() if self.is_ours(name))

    def parser(self, prog: str) -> ArgumentParser:
        """The parser; defaults and help come from the dataclasses."""
        return make_parser(
            self.kind,
            prog,
            description=self.description,
            epilog=f"Shipped recipes: {', '.join(self.names())}. --config takes one of these names, or a path.",
            files="YAML file, or the name of a shipped recipe.",
        )

    def parse(self, argv: Sequence[str] | None, prog: str) -> S:
        """Parse arguments, by default ``sys.argv[1:]``, into settings.

        Raises:
            UserError: an unknown flag, a value of the wrong type or out of range, a file that does not exist.
        """
        arguments, sources = self._in_order(list(sys.argv[1:] if argv is None else argv))
        with self._placing_errors(arguments, sources):
            return parsed(self.kind, self.parser(prog), arguments)

    def given(self, argv: Sequence[str] | None, prog: str) -> Given:
        """What arguments give; raises UserError as :meth:`parse`, except for values out of range."""
        arguments, sources = self._in_order(list(sys.argv[1:] if argv is None else argv))
        with self._placing_errors(arguments, sources):
            found = given_settings(self.kind, self.parser(prog), arguments)
        return Given([source.recipe for source in sources], found)

    @contextlib.contextmanager
    def _placing_errors(self, arguments: Sequence[str], sources: Sequence[_Source]) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            options = {option.partition("=")[0].removeprefix("--") for option in arguments}
            named = options | {dotted for group, dotted in bare_fields(self.kind).items() if group in options}
            raise placed(error, [source.file for source in sources], named) from None

    def from_call(self, args: Sequence[Any], keywords: Mapping[str, Any]) -> S:
        """The settings for a call from Python, by the same rules as on the command line.

        ``config`` among the keywords is a whole configuration, or recipes and YAML files, of which later ones override.

        Raises:
            UserError: as for :meth:`parse`.
        """
        given = dict(keywords)
        config = given.pop("config", None)
        if isinstance(config, self.kind):
            args = (config, *args)
        if args:
            return settings_from(self.kind, args, given)
        sources, values = self._layers(config, given)
        try:
            return from_values(self.kind, values)
        except UserError as error:
            raise placed(
                error, [source.file for source in sources], flat(nested_values(self.kind, (), given))
            ) from None

    def given_in_call(self, keywords: Mapping[str, Any]) -> Given:
        """What the keywords of a call give; raises UserError as :meth:`from_call`, except for wrong values."""
        given = dict(keywords)
        sources, values = self._layers(given.pop("config", None), given)
        return Given([source.recipe for source in sources], flat(values))

    def _layers(self, config: Any, keywords: Mapping[str, Any]) -> tuple[list[_Source], dict[str, Any]]:
        """The files of a call, and the settings in them with the keywords over them, as nested plain data."""
        values = nested_values(self.kind, (), keywords)
        names = [config] if isinstance(config, str | Path) else config
        if names is None:
            names = [] if self.default is None or "path" in values.get("data", {}) else [self.default]
        if not isinstance(names, Sequence):
            raise UserError(f"config must be a {self.kind.__name__}, a recipe's name or a YAML file, got {config!r}")
        sources = [self._source(str(name)) for name in names]
        from_files: dict[str, Any] = {}
        for source in sources:
            from_files = _merged(from_files, source.file.values)
        layers = [*(source.file.values for source in sources), values]
        overridden = _overridden(_group(layer.get("train")) for layer in layers)
        return sources, _merged(_merged(from_files, {"train": dict.fromkeys(overridden)}), values)

    def _in_order(self, argv: list[str]) -> tuple[list[str], list[_Source]]:
        """Reorder the arguments so that configuration files come first and options override them; and their sources.

        Recipe names are replaced by their files. A run's config.yaml brings the folder that it lies in.
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
                sources.append(self._source(value))
            elif (following := next(arguments, None)) is not None:
                sources.append(self._source(following))
            else:
                options.append(arg)  # the parser says that its value is missing
        if not names_data and self.default is not None:
            sources = [self._source(self.default)]
        layers = [*(_group(source.file.values.get("train")) for source in sources), _train_options(options)]
        nulls = [f"--train.{name}=null" for name in _overridden(layers)] if len(layers) > 1 else []
        ordered = [arg for source in sources for arg in source.arguments] + options + nulls
        return ordered, sources

    def _is_shipped(self, path: Path) -> bool:
        """Whether a file is a shipped recipe under its name, as configs/auto.yaml of a clone."""
        shipped = files("fcmae.configs") / path.name
        with contextlib.suppress(OSError):  # reading it as settings, which comes next, names what is wrong
            return shipped.is_file() and shipped.read_bytes() == path.read_bytes()
        return False

    def _source(self, given: str) -> _Source:
        """The file or recipe that ``--config`` names.

        A recipe name may have the prefix configs/ and the suffix .yaml; an existing file of that name takes precedence.

        Raises:
            UserError: neither a file nor a recipe, or a file that is not a YAML mapping of known settings.
        """
        if not given:
            raise UserError(f"--config is empty; give a YAML file or a recipe: {', '.join(self.names())}")
        path, name = Path(given), Path(given).name.removesuffix(".yaml")
        is_name = path.parent in (Path("."), Path("configs")) and not path.is_file()
        if is_name or self._is_shipped(path):
            if name in self.names():
                with as_file(files("fcmae.configs") / f"{name}.yaml") as shipped:
                    file = read_settings(given, read_text(shipped, given), self.kind)
                    return _Source([f"--config={shipped}"], file, name)
            if name in self.older:
                stands_for, model = self.older[name]
                recipe = yaml.safe_load((files("fcmae.configs") / f"{stands_for}.yaml").read_text(encoding="utf-8"))
                recipe["model"]["name"] = model
                text = yaml.safe_dump(recipe)
                return _Source([f"--config={text}"], read_settings(given, text, self.kind), stands_for)
        if path.is_dir():
            raise UserError(f"--config {given} is a folder; give a YAML file, such as a run's config.yaml")
        if not path.is_file():
            known = self.names()
            hint = "; that recipe is of another command" if name in _shipped() else nearest(given, known)
            raise UserError(f"--config {given} is neither a file nor a recipe; recipes: {', '.join(known)}{hint}")
        file = read_settings(given, read_text(path, given), self.kind)
        folder = run_of(path)  # a run is where its config.yaml lies: it may have been moved or copied
        if folder is None:
            return _Source([f"--config={given}"], file)
        file.values["output"] = str(folder)
        return _Source([f"--config={given}", f"--output={folder}"], file)


def _shipped() -> list[str]:
    """Names of the recipes of all commands."""
    names = (entry.name for entry in files("fcmae.configs").iterdir())
    return [name.removesuffix(".yaml") for name in names if name.endswith(".yaml")]


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two nested mappings; the second takes precedence."""
    merged = dict(first)
    for key, value in second.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


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

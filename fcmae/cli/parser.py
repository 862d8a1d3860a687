"""Builds a parser from a settings dataclass, and the dataclass from parsed arguments.

A field becomes a flag, a field of a nested dataclass a dotted flag (``--data.path``), and a field without a default a
positional argument. Attribute docstrings become the help. jsonargparse checks types and the dataclasses check ranges;
both kinds of error are reported on one line.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from inspect import getdoc
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace, get_loader, set_loader, set_parsing_settings

from fcmae.cli.fields import groups, leaves, metavar, positionals
from fcmae.cli.messages import as_typed, one_line
from fcmae.cli.spelling import OF_THE_PARSER, normalized
from fcmae.errors import UserError
from fcmae.runs.layout import flat

T = TypeVar("T")

_load = get_loader("yaml")


def _load_any_name(text: str) -> Any:
    """Names that are not UTF-8 are escaped surrogates in YAML and JSON, which only PyYAML's own parser accepts."""
    try:
        return _load(text)
    except yaml.YAMLError:
        if "\\ud" not in text.lower():
            raise
        return yaml.safe_load(text)


set_loader("yaml", _load_any_name, (yaml.YAMLError,))


class _HelpFormatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """jsonargparse's formatter, with types and defaults; the description keeps its line breaks."""


def make_parser(
    kind: type, prog: str = "fcmae", *, description: str | None = None, epilog: str | None = None, files: str = ""
) -> ArgumentParser:
    """The parser of a settings dataclass. The same arguments give the same object: making one takes 0.1 s.

    Args:
        kind: the dataclass; its docstring describes the command.
        prog: the command as the user called it.
        description: replaces the dataclass' docstring.
        epilog: printed below the options.
        files: help text of ``--config``, which reads settings from a YAML file; empty: no such option.
    """
    return _make_parser(kind, prog, description, epilog, files)


@cache
def _make_parser(kind: type, prog: str, description: str | None, epilog: str | None, files: str) -> ArgumentParser:
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog=prog,
        description=description or getdoc(kind),
        epilog=epilog,
        formatter_class=_HelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,
    )
    if files:
        parser.add_argument("--config", action="config", help=files)
    before = len(parser._action_groups)
    parser.add_class_arguments(kind, as_positional=True)
    parser._action_groups[before].title = "arguments and options" if positionals(kind) else "options of the run"
    names = {leaf.name: leaf for leaf in positionals(kind)}
    for action in parser._actions:
        if action.dest in names:
            name = metavar(names[action.dest])
            action.metavar = name if names[action.dest].item is None else f"{name} [{name} ...]"
        elif action.dest in groups(kind):  # accepts the whole group as JSON; hidden, because users do not need it
            action.help = argparse.SUPPRESS
        elif action.dest in leaves(kind) and leaves(kind)[action.dest].is_switch:
            action.metavar = "[true|false]"  # the flag without a value means true
    return parser


def parse(kind: type[T], argv: Sequence[str] | None = None, prog: str = "fcmae") -> T:
    """Parse arguments, by default ``sys.argv[1:]``, into settings.

    Raises:
        UserError: an unknown flag, a missing argument, or a value of the wrong type or out of range.
    """
    return parsed(kind, make_parser(kind, prog), sys.argv[1:] if argv is None else argv)


def parsed(kind: type[T], parser: ArgumentParser, argv: Sequence[str]) -> T:
    """As :func:`parse`, with an existing parser."""
    return _build(kind, _parse_args(kind, parser, argv, defaults=True))


def given_settings(kind: type, parser: ArgumentParser, argv: Sequence[str]) -> dict[str, Any]:
    """The settings that arguments give, those in their files included, by dotted name.

    Raises:
        UserError: as :func:`parse`, except for values out of range.
    """
    asks = [one for one in argv if one.partition("=")[0] in OF_THE_PARSER]
    found = _parse_args(kind, parser, [one for one in argv if one not in asks], defaults=False).as_dict()
    return {name: value for name, value in flat(found).items() if name in leaves(kind)}


def _parse_args(kind: type, parser: ArgumentParser, argv: Sequence[str], defaults: bool) -> Namespace:
    flags = normalized(kind, argv, takes_files="--config" in parser._option_string_actions)
    try:
        return parser.parse_args(flags, defaults=defaults)
    except argparse.ArgumentError as error:
        raise UserError(as_typed(one_line(str(error), kind), kind, flags)) from None


def from_values(kind: type[T], values: Mapping[str, Any]) -> T:
    """Build settings from nested plain data, such as ``{"data": {"path": "images"}}``.

    Raises:
        UserError: an unknown name, a missing one, or a value of the wrong type or out of range.
    """
    for leaf in positionals(kind):
        if leaf.name not in values:
            raise UserError(f"{leaf.name} is missing")
    try:
        found = make_parser(kind).parse_object(dict(values))
    except argparse.ArgumentError as error:
        raise UserError(one_line(str(error), kind)) from None
    return _build(kind, found)


def _build(kind: type[T], values: Namespace, prefix: str = "") -> T:
    given: dict[str, Any] = {}
    for field in fields(kind):  # type: ignore[arg-type]
        name, value = field.name, values[field.name]
        if name in groups(kind):
            if not isinstance(value, Namespace):
                raise UserError(f"--{prefix}{name} is a group of options, got {value!r}")
            given[name] = _build(groups(kind)[name], value, f"{prefix}{name}.")
            continue
        leaf = leaves(kind)[name]
        if value is None and not leaf.admits_none:
            instead = "" if leaf.is_positional else f", or leave it out for {leaf.default}"
            raise UserError(f"--{prefix}{name} is null; give a value{instead}")
        given[name] = tuple(value) if isinstance(value, list) else value
    try:
        return kind(**given)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"--{prefix}{error}") from None

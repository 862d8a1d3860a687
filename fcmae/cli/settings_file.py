"""Reads a YAML file of settings; what is wrong in it is named with the file, the line and the nearest setting."""

import re
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fcmae.cli.fields import bare_fields, groups, leaves, nearest
from fcmae.errors import UserError

FLAG_OF_MESSAGE = re.compile(r"--([\w.]+)(?=[ :])(?! is not an option)")


@dataclass(frozen=True)
class SettingsFile:
    """The settings of a file, and where in it they are."""

    given: str
    """The file as the user named it."""
    values: dict[str, Any]
    lines: dict[str, int]
    """Dotted name → line, from 1; groups too."""


def read_settings(given: str, text: str, kind: type) -> SettingsFile:
    """The settings in the YAML text of a file.

    Raises:
        UserError: text that is not YAML or not a mapping; a key that is unknown, given twice or not text.
    """

    def refuse(line: int | None, what: str) -> UserError:
        return UserError(f"--config {given}{'' if line is None else f', line {line}'}: {what}")

    try:
        node = yaml.compose(text, yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = None if error.problem_mark is None else error.problem_mark.line + 1
        raise refuse(line, f"cannot be read as YAML: {_reason(error)}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise refuse(None, f"cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(node, yaml.MappingNode) or not isinstance(values, dict):
        raise UserError(f"--config {given} holds no settings; expected lines such as 'seed: 1'")
    lines: dict[str, int] = {}
    _walk(node, "", kind, lines, refuse)
    return SettingsFile(given, values, lines)


def _reason(error: yaml.MarkedYAMLError) -> str:
    problem = " ".join((error.problem or str(error)).split())
    if "'\\t'" in problem:
        return "a tab cannot indent; use spaces"
    if problem.startswith("could not determine a constructor"):
        return "only plain values are read, no tags such as !!python"
    return problem


def _walk(
    node: yaml.MappingNode, prefix: str, kind: type, lines: dict[str, int], refuse: Callable[[int, str], UserError]
) -> None:
    """Note the line of every key in a mapping."""
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
            raise refuse(line, f"{getattr(key, 'value', 'a list or mapping')} is not the name of a setting")
        if key.tag.endswith(":merge"):  # <<: *anchor
            continue
        name = f"{prefix}{key.value}"
        if name in lines:
            raise refuse(line, f"{name} is given twice; it is in line {lines[name]} too")
        lines[name] = line
        if name in leaves(kind):
            continue
        if name not in groups(kind):
            raise refuse(line, f"{name} is not a setting{nearest(name, _known(prefix, kind))}")
        if isinstance(value, yaml.MappingNode):
            _walk(value, f"{name}.", kind, lines, refuse)
        elif not (isinstance(value, yaml.ScalarNode) and value.tag.endswith(":null")):
            inner = bare_fields(kind).get(name) or next(one for one in leaves(kind) if one.startswith(f"{name}."))
            shown = getattr(value, "value", "…") if name in bare_fields(kind) else "…"
            raise refuse(line, f"{name} is a group of settings; write {name}: {{{inner.partition('.')[2]}: {shown}}}")


def _known(prefix: str, kind: type) -> list[str]:
    """The names that an unknown key may be meant as: those of its group first."""
    return [*(one for one in leaves(kind) if one.startswith(prefix)), *groups(kind)]


def placed(error: UserError, files: Sequence[SettingsFile], options: Container[str]) -> UserError:
    """The error about a setting, with the file and line that gave it; unchanged if an option or no file gave it."""
    found = FLAG_OF_MESSAGE.match(str(error))
    if found is None or found[1] in options:
        return error
    for file in reversed(files):
        if found[1] in file.lines:
            return UserError(f"--config {file.given}, line {file.lines[found[1]]}: {str(error).removeprefix('--')}")
    return error


def read_text(file: Path, given: str) -> str:
    """The text of a file; UserError if it is not UTF-8 or cannot be read."""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"--config {given} cannot be read as YAML: it is not text (UTF-8)") from None
    except OSError as error:
        raise UserError(f"--config {given} cannot be read as YAML: {error.strerror}") from None

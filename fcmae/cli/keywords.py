"""Commands as functions: converts keyword arguments to a settings dataclass.

``epochs=100`` means ``train.epochs`` if no other group has that name, ``data="images/"`` means ``data.path``, and a
whole group can be passed: ``log={"every": 5}`` or ``log=LogConfig(every=5)``.
"""

import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any, TypeVar

import numpy as np

from fcmae.cli.fields import Leaf, bare_fields, groups, leaves, nearest, positionals
from fcmae.cli.parser import from_values
from fcmae.cli.quiet import quieted
from fcmae.cli.spelling import is_list, split
from fcmae.errors import UserError
from fcmae.wording import counted

S = TypeVar("S")
R = TypeVar("R")
Read = Callable[[Sequence[Any], Mapping[str, Any]], S]


def keyword_function(
    kind: type[S], read: Read[S] | None = None, first: Sequence[inspect.Parameter] = ()
) -> Callable[[Callable[[S], R]], Callable[..., R]]:
    """A decorator that turns a function of a settings object into a function of keyword arguments; it quiets libraries.

    The settings object can still be passed as the only positional argument. ``help`` and ``inspect.signature`` show the
    keywords with their types and defaults.

    Args:
        kind: the settings dataclass.
        read: (args, keywords) → settings; default: :func:`settings_from`.
        first: parameters of ``read`` that are not settings.
    """

    def decorate(function: Callable[[S], R]) -> Callable[..., R]:
        @wraps(function)
        def call(*args: Any, **keywords: Any) -> R:
            with quieted():
                return function(settings_from(kind, args, keywords) if read is None else read(args, keywords))

        names = {one.name for one in first}
        accepted = [*first, *(one for one in parameters(kind) if one.name not in names)]
        returns = inspect.signature(function).return_annotation
        call.__signature__ = inspect.Signature(accepted, return_annotation=returns)  # type: ignore[attr-defined]
        call.__annotations__ = {one.name: one.annotation for one in accepted} | {"return": returns}
        del call.__wrapped__  # the wrapped function has another signature
        return call

    return decorate


def parameters(kind: type) -> list[inspect.Parameter]:
    """The settings as parameters: required ones, then groups, then every unambiguous setting name."""
    make = inspect.Parameter
    found = [make(leaf.name, make.POSITIONAL_OR_KEYWORD, annotation=_hint(leaf)) for leaf in positionals(kind)]
    for name, group in groups(kind).items():
        hint: Any = Mapping[str, Any] | group | None
        if name in bare_fields(kind):
            hint = leaves(kind)[bare_fields(kind)[name]].hint | hint
        found.append(make(name, make.KEYWORD_ONLY, default=None, annotation=hint))
    for name, dotted in _places(kind).items():
        leaf = leaves(kind)[dotted[0]]
        if len(dotted) == 1 and not leaf.is_positional and name not in groups(kind):
            found.append(make(name, make.KEYWORD_ONLY, default=leaf.default, annotation=leaf.hint))
    return found


def _hint(leaf: Leaf) -> Any:
    """Type hint of a required setting; a list may also be given as a single item."""
    item: Any = leaf.item
    return leaf.hint if item is None else item | Sequence[item]


def settings_from(kind: type[S], args: Sequence[Any], keywords: Mapping[str, Any]) -> S:
    """Build the settings from the arguments of a call.

    Raises:
        UserError: a name that is unknown, ambiguous or given twice; or a value of the wrong type or out of range.
    """
    if args and isinstance(args[0], kind):
        if len(args) > 1 or keywords:
            raise UserError(f"a whole {kind.__name__} takes no other arguments; use dataclasses.replace")
        return args[0]
    return from_values(kind, nested_values(kind, args, keywords))


def nested_values(kind: type, args: Sequence[Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call as nested plain data; raises UserError as :func:`settings_from` does."""
    names = [leaf.name for leaf in positionals(kind)]
    if len(args) > len(names):
        takes = (
            f"{counted(len(names), 'argument')} by position ({', '.join(names)})"
            if names
            else "no arguments by position"
        )
        raise UserError(f"unexpected argument {args[len(names)]!r}: the function takes {takes}, the others by name")
    found: dict[str, Any] = {}
    for name, value in [*zip(names, args, strict=False), *keywords.items()]:
        for dotted, one in _resolved(kind, name, value):
            group, _, inner = dotted.rpartition(".")
            place = found.setdefault(group, {}) if group else found
            if inner in place:
                raise UserError(f"{dotted} is given twice")
            place[inner] = one
    return found


def _resolved(kind: type, name: str, value: Any) -> list[tuple[str, Any]]:
    """The settings that a keyword sets, as (dotted name, value)."""
    if name in groups(kind):
        return _of_group(kind, name, value)
    dotted = [name] if name in leaves(kind) else _places(kind).get(name, [])
    if len(dotted) > 1:
        ways = " or ".join(f"{one.partition('.')[0]}={{{name!r}: …}}" for one in dotted)
        raise UserError(f"{name} is a setting of several groups ({', '.join(dotted)}); write {ways}")
    if not dotted:
        known = [*groups(kind), *_places(kind)]
        raise UserError(f"{name} is not a setting{nearest(name, known)}")
    return [(dotted[0], _plain(leaves(kind)[dotted[0]], value))]


def _of_group(kind: type, name: str, value: Any) -> list[tuple[str, Any]]:
    if value is None:
        return []
    if is_dataclass(value) and not isinstance(value, type):
        if not isinstance(value, groups(kind)[name]):
            raise UserError(f"{name} must be a {groups(kind)[name].__name__}, got a {type(value).__name__}")
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if not isinstance(value, Mapping):
        if name not in bare_fields(kind):
            inside = ", ".join(field.name for field in fields(groups(kind)[name]))
            raise UserError(f"{name} must be a dict of {inside}, got {value!r}")
        dotted = bare_fields(kind)[name]
        return [(dotted, _plain(leaves(kind)[dotted], value))]
    found = []
    for key, one in value.items():
        if f"{name}.{key}" not in leaves(kind):
            known = [field.name for field in fields(groups(kind)[name])]
            raise UserError(f"{name} has no setting {key!r}{nearest(str(key), known)}")
        found.append((f"{name}.{key}", _plain(leaves(kind)[f"{name}.{key}"], one)))
    return found


def _plain(leaf: Leaf, value: Any) -> Any:
    """Convert a value for jsonargparse: paths to str, a single item to a list, NumPy scalars to Python numbers."""
    torch = sys.modules.get("torch")  # not imported for this: it takes seconds
    if isinstance(value, os.PathLike) or (torch is not None and isinstance(value, torch.device)):
        value = str(value)
    if isinstance(value, np.generic):
        value = value.item()
    if leaf.item is None or value is None:
        return value
    if isinstance(value, str) and leaf.item is not str and is_list(value):
        value = split(value)
    if isinstance(value, str | int | float):
        if leaf.takes_alone(value):
            return value
        value = [value]
    if not isinstance(value, Sequence | np.ndarray):
        return value  # the parser rejects it with a message
    items = [_plain(leaf._replace(hint=leaf.item), item) for item in value]
    return [str(item) for item in items] if leaf.item is str else items


def _places(kind: type) -> dict[str, list[str]]:
    """Plain name → dotted names of the settings it may refer to; a top-level setting takes precedence."""
    found: dict[str, list[str]] = {}
    for dotted in leaves(kind):
        found.setdefault(dotted.rpartition(".")[2], []).append(dotted)
    return {name: [name] if name in dotted else dotted for name, dotted in found.items()}

"""Normalizes the accepted spellings of arguments to the form that jsonargparse reads.

All commands accept lists as ``0.4,0.6``, ``[0.4,0.6]`` or ``0.4 0.6``; switches as ``--overwrite`` or
``--overwrite true``; ``--data images/`` for ``--data.path images/``; several positional arguments for one list.
"""

import json
import os
import re
from collections.abc import Sequence
from typing import Any

from fcmae.cli import fields
from fcmae.cli.fields import Leaf, bare_fields, closest, groups, leaves, metavar, nearest, positionals
from fcmae.errors import UserError

FLAG = re.compile(r"-(?![\d.])\D")  # -1 and -.5 are values
SWITCH_WORDS = {word: value for value, words in (("true", "true yes on"), ("false", "false no off"), ("null", "null"))
                for word in words.split()}  # fmt: skip
OF_THE_PARSER = ("--print_config", "--help", "-h")


def normalized(kind: type, argv: Sequence[str], takes_files: bool = False) -> list[str]:
    """Rewrite the arguments as ``--flag=value``, positional ones last; ``takes_files``: ``--config`` is an option.

    Raises:
        UserError: an unknown flag, or too few or too many positional arguments.
    """
    known, bare = leaves(kind), bare_fields(kind)
    waiting, flags, words = list(argv), [], []
    while waiting:
        argument = waiting.pop(0)
        if argument == "--":
            words += waiting
            break
        if not FLAG.match(argument):
            words.append(argument)
            continue
        flag, equals, value = argument.partition("=")
        name = flag.removeprefix("--")
        given = [value] if equals else waiting[:1]
        if name in bare and given and not given[0].startswith("{"):
            name = bare[name]
        if name in known and not known[name].is_positional:
            leaf = known[name]
            values = [value] if equals else _take(leaf, waiting, kind)
            if not values:
                raise UserError(f"--{name} needs a value")
            flags.append(f"--{name}={_text(leaf, values)}")
        elif flag in OF_THE_PARSER:
            flags.append(argument)
        elif (takes_files and flag == "--config") or name in groups(kind):
            if not equals and not waiting:
                raise UserError(f"{flag} needs a value")
            value = value if equals else waiting.pop(0)
            if name in groups(kind) and not value.startswith("{"):
                inner = [one for one in known if one.startswith(f"{name}.")]
                raise UserError(f"{flag} is a group of options, got {value!r}; write --{', --'.join(inner[:3])}, …")
            flags.append(f"{flag}={value}")
        else:
            options = [leaf.name for leaf in known.values() if not leaf.is_positional]
            raise UserError(f"{flag} is not an option{nearest(flag.lstrip('-'), options, '--')}")
    wants_help = any(flag in ("-h", "--help") for flag in flags)
    return flags if wants_help else flags + _positional(kind, words)


def _take(leaf: Leaf, waiting: list[str], kind: type) -> list[str]:
    """Pop the values of a flag from the arguments after it.

    With positional arguments, a switch takes only its own words, and a list that may be one text takes one; so it does
    where a word may follow that needs no flag, as WEIGHTS.
    """
    has_positionals = bool(positionals(kind))
    if leaf.is_switch:
        is_value = bool(waiting) and (
            waiting[0].lower() in SWITCH_WORDS or not (has_positionals or FLAG.match(waiting[0]))
        )
        return [waiting.pop(0)] if is_value else ["true"]
    several = not (leaf.takes_one_value and (has_positionals or fields.words(kind)))
    if not waiting or FLAG.match(waiting[0]):
        return []
    values = [waiting.pop(0)]
    if leaf.item is None or is_list(values[0]) or (leaf.item is str and not several):
        return values
    while waiting and len(values) != leaf.length and _may_be_item(waiting[0], leaf.item):
        values.append(waiting.pop(0))
    return values


def is_list(text: str) -> bool:
    """Whether a text is a list in a form that :func:`split` accepts."""
    return "," in text or text.startswith(("[", "("))


def _may_be_item(text: str, item: Any) -> bool:
    if FLAG.match(text) or is_list(text):
        return False
    if item is str:
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True


def _text(leaf: Leaf, values: Sequence[str]) -> str:
    """The value in the form that jsonargparse reads; lists as JSON."""
    if leaf.is_switch:
        return SWITCH_WORDS.get(values[0].lower(), values[0])
    if leaf.item is None or list(values) == ["null"]:
        return values[0]
    if len(values) == 1:
        names_a_path = leaf.item is str and os.path.lexists(values[0])  # whose name may look like a list
        if leaf.takes_alone(values[0]) and (names_a_path or not is_list(values[0])):
            return values[0]
        values = split(values[0])
    if leaf.length is not None and not leaf.takes_one_value and len(values) != leaf.length:
        raise UserError(wrong_length(leaf, ",".join(values)))
    return json.dumps(list(values)) if leaf.item is str else f"[{','.join(values)}]"


def wrong_length(leaf: Leaf, given: object) -> str:
    """What is wrong with a list of another length than the setting's, and how to write one."""
    example = "" if leaf.default is None else f", such as --{leaf.name} {','.join(f'{one:g}' for one in leaf.default)}"
    return f"--{leaf.name} takes {leaf.length} values{example}; got {given}"


def split(text: str) -> list[str]:
    """``0.4,0.6`` and ``[0.4, 0.6]`` → the list of items."""
    text = text.strip()
    if text[:1] + text[-1:] in ("[]", "()"):
        text = text[1:-1]
    return [item.strip().strip("\"'") for item in text.split(",") if item.strip()]


def _positional(kind: type, words: Sequence[str]) -> list[str]:
    """One argument per positional setting; a list takes all remaining arguments."""
    wanted, left = positionals(kind), list(words)
    options = [leaf.name for leaf in leaves(kind).values() if not leaf.is_positional]
    found: list[str] = []
    for leaf in wanted:
        if not left:
            raise UserError(f"{metavar(leaf)} is missing; see --help")
        if leaf.item is None:
            found.append(left.pop(0))
        else:
            found.append(json.dumps(left))
            left = []
    for leaf in fields.words(kind):
        if left and ("=" not in left[0] or os.path.exists(left[0])):
            found.append(f"--{leaf.name}={left.pop(0)}")
    if left:
        meant = closest(left[0].partition("=")[0], options) if "." in left[0] or "=" in left[0] else None
        hint = f": --{meant}" if meant else ", see --help"
        raise UserError(f"unexpected argument {left[0]}; options begin with --{hint}")
    return found

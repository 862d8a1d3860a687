"""Rewrites jsonargparse's errors as one line in plain English."""

import re
from collections.abc import Sequence

from fcmae.cli.fields import leaves, nearest
from fcmae.cli.spelling import wrong_length

WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "NoneType": "null",
    "tuple[int, int]": "two whole numbers (1,2)",
    "tuple[float, float]": "two numbers (1,2)",
    "tuple[int, ...]": "whole numbers (1,2,…)",
    "tuple[float, ...]": "numbers (1,2,…)",
    "tuple[str, ...]": "texts (a,b,…)",
}


def one_line(message: str, kind: type) -> str:
    """The message on one line, without class names, with the key written as a flag, for settings of this kind."""
    text = _plain(message)
    known = [leaf.name for leaf in leaves(kind).values() if not leaf.is_positional]
    if unknown := re.fullmatch(r"--(\S+) is not an option", text):
        return text + nearest(unknown[1], known, "--")
    if group := re.match(r"--(\w+): Unable to load config '(.*?)'", text):
        inner = [name for name in known if name.startswith(f"{group[1]}.")]
        return f"--{group[1]} is a group of options, got {group[2]!r}; write --{', --'.join(inner[:3])}, …"
    listed = re.match(r"--(\S+): Expected (?:a list|\d+ values) \(1,2,…\)\. Got value: (.*)", text)
    if listed and (leaf := leaves(kind).get(listed[1])) and leaf.length is not None:
        return wrong_length(leaf, listed[2].strip("[]"))
    return text


def as_typed(line: str, kind: type, flags: Sequence[str]) -> str:
    """The line with the value of a flag as the user wrote it: YAML makes True of yes."""
    got = re.match(r"--(\S+): .*Got value: ", line)
    leaf = leaves(kind).get(got[1]) if got else None
    typed = [flag for flag in flags if got and flag.startswith(f"--{got[1]}=")]
    if got is None or leaf is None or leaf.item is not None or not typed:
        return line
    return got[0] + typed[-1].partition("=")[2]


def _plain(message: str) -> str:
    text = " ".join(message.split()).replace('Parser key "', "--").replace('":', ":", 1)
    text = text.replace("<class '", "").replace("'>", "").replace("a typing.Literal", "one of ")
    text = re.sub(r"Does not validate.* Subtypes: \[(.*)\] Errors: .* Given value: ", _expected_union, text)
    text = re.sub(r"Expected a (int|float|str|bool)\.", lambda match: f"Expected {WORDS[match[1]]}.", text)
    text = re.sub(r"Expected a tuple with (\d+) elements", r"Expected \1 values (1,2,…)", text)
    text = re.sub(r"Expected a tuple\b", "Expected a list (1,2,…)", text)
    text = re.sub(r"Group '(\S+)' does not accept option '(\S+)'", r"--\1.\2 is not an option", text)
    return re.sub(r"Option '(\S+)' is not accepted", r"--\1 is not an option", text)


def _expected_union(match: re.Match[str]) -> str:
    kinds = re.split(r", (?![^\[]*\])", match[1])  # at commas outside brackets
    return f"Expected {' or '.join(WORDS.get(kind) or _words(kind) for kind in kinds)}. Got value: "


def _words(kind: str) -> str:
    """``typing.Literal['a', 'b']`` as its words."""
    literal = re.fullmatch(r"typing\.Literal\[(.*)\]", kind)
    return " or ".join(one.strip("'\"") for one in literal[1].split(", ")) if literal else kind

"""Fields of a settings dataclass by dotted name, including those of nested dataclasses (groups)."""

import difflib
import types
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

BARE = "bare"
"""Metadata key of a group field: the group's field that a plain value sets (``data="images/"``)."""
WORD = "word"
"""Metadata key of a setting that may be given without its flag, as a positional argument: its name in the help."""


class Leaf(NamedTuple):
    """One setting."""

    name: str
    """Dotted name, such as ``data.path``."""
    hint: Any
    """Type hint, such as ``str | None``."""
    field: Field

    @property
    def is_positional(self) -> bool:
        """Whether the setting is required, that is, has no default."""
        return self.field.default is MISSING and self.field.default_factory is MISSING

    @property
    def default(self) -> Any:
        """The default; only for a setting that has one."""
        make = self.field.default_factory
        return self.field.default if make is MISSING else make()

    @property
    def item(self) -> Any:
        """Item type if the setting takes a list, otherwise None."""
        for kind in _members(self.hint):
            if get_origin(kind) is tuple:
                return get_args(kind)[0]
        return None

    @property
    def length(self) -> int | None:
        """Length of its list; None: any length, or not a list."""
        sizes = [len(get_args(kind)) for kind in _members(self.hint) if get_origin(kind) is tuple]
        return None if not sizes or any(... in get_args(kind) for kind in _members(self.hint)) else sizes[0]

    def takes_alone(self, value: Any) -> bool:
        """Whether it accepts this value by itself, not as a list of one: a word of a Literal, or another type's."""
        alone = [kind for kind in _members(self.hint) if get_origin(kind) is not tuple and kind is not types.NoneType]
        return any(get_origin(kind) is not Literal or value in get_args(kind) for kind in alone)

    @property
    def takes_one_value(self) -> bool:
        """Whether it accepts any value by itself besides a list."""
        return any(
            get_origin(kind) not in (tuple, Literal) and kind is not types.NoneType for kind in _members(self.hint)
        )

    @property
    def is_switch(self) -> bool:
        """Whether it is a boolean, so that the flag without a value means true."""
        return bool in _members(self.hint)

    @property
    def admits_none(self) -> bool:
        """Whether it accepts null."""
        return types.NoneType in _members(self.hint)


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def groups(kind: type) -> dict[str, type]:
    """Group name → dataclass, for the fields that are dataclasses."""
    return _groups(kind)


@cache
def _groups(kind: type) -> dict[str, type]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind) if is_dataclass(hints[field.name])}


def bare_fields(kind: type) -> dict[str, str]:
    """Group → dotted name of the setting that a plain value for the group sets."""
    return {field.name: f"{field.name}.{field.metadata[BARE]}" for field in fields(kind) if BARE in field.metadata}


def leaves(kind: type) -> dict[str, Leaf]:
    """Dotted name → setting, in field order."""
    return _leaves(kind)


@cache
def _leaves(kind: type) -> dict[str, Leaf]:
    hints, found = get_type_hints(kind), {}
    for field in fields(kind):
        if field.name in groups(kind):
            for leaf in leaves(groups(kind)[field.name]).values():
                found[f"{field.name}.{leaf.name}"] = leaf._replace(name=f"{field.name}.{leaf.name}")
        else:
            found[field.name] = Leaf(field.name, hints[field.name], field)
    return found


def positionals(kind: type) -> list[Leaf]:
    """The required settings; they are positional and have no flag."""
    return [leaf for leaf in leaves(kind).values() if leaf.is_positional]


def words(kind: type) -> list[Leaf]:
    """The optional settings that may also be given as positional arguments."""
    return [leaf for leaf in leaves(kind).values() if WORD in leaf.field.metadata]


def metavar(leaf: Leaf) -> str:
    """Name of a positional setting in help and errors."""
    return str(leaf.field.metadata.get("metavar", leaf.name.upper()))


# what people write for a setting, from the command lines of other programs
SYNONYMS = {
    "lr": "base_lr", "blr": "base_lr", "learning_rate": "base_lr", "wd": "weight_decay", "bs": "batch_size",
    "accum_iter": "accumulation_steps", "gradient_accumulation_steps": "accumulation_steps", "arch": "name",
    "input_size": "img_size", "image_size": "img_size", "masking_ratio": "mask_ratio", "workers": "num_workers",
    "data_dir": "path", "data_path": "path", "dataset_path": "path", "output_dir": "output", "out": "output",
    "save_dir": "output", "gpu": "device", "gpus": "device", "finetune": "init_from", "checkpoint": "init_from",
    "amp": "precision", "fp16": "precision", "channels": "in_chans",
}  # fmt: skip


def nearest(name: str, known: Sequence[str], prefix: str = "") -> str:
    """``; the nearest is …`` for an unknown name, or an empty string if none is similar."""
    found = closest(name, known)
    return "" if found is None else f"; the nearest is {prefix}{found}"


def closest(name: str, known: Sequence[str]) -> str | None:
    """The known name that an unknown one most likely means: the same last part first, then the most similar."""
    wanted = name.lower().replace("-", "_")
    last = wanted.rpartition(".")[2]
    for part in (last, SYNONYMS.get(last)):
        same = [one for one in known if one.rpartition(".")[2] == part]
        if same:
            return difflib.get_close_matches(wanted, same, n=1, cutoff=0)[0]
    similar = difflib.get_close_matches(wanted, known)  # the group alone makes none similar
    if near := [one for one in similar if difflib.SequenceMatcher(None, last, one.rpartition(".")[2]).ratio() > 0.5]:
        return near[0]
    lasts = {one.rpartition(".")[2]: one for one in reversed(known)}
    return next((lasts[one] for one in difflib.get_close_matches(last, lasts, n=1, cutoff=0.7)), None)

"""A table of a format's names beside timm's, read in both directions."""

import re
from collections.abc import Sequence

from torch import Tensor

from fcmae.weights.formats.base import Named, Networks

GRN = {"gamma": "weight", "beta": "bias"}
PARAMETERS = ("gamma", "mask_token")  # rows that end so name a parameter, others a module


class Names:
    """Names of parameters, translated.

    Args:
        rows: (timm's name, the format's name), tried from the top. ``{s}`` stands for a stage, ``{b}`` for a block and
            ``{j}`` for a layer of a sequence.
        grn: what the format calls GRN's parameters, "weight bias" or "gamma beta". Both are read.
    """

    def __init__(self, rows: Sequence[tuple[str, str]], grn: str = "gamma beta") -> None:
        self.grn = dict(zip(GRN.values(), grn.split(), strict=True))
        self._to = [(_pattern(theirs, timm), timm) for timm, theirs in rows]
        self._from = [(_pattern(timm, timm), theirs) for timm, theirs in rows]

    def to_timm(self, name: str, tensor: Tensor) -> Named | None:
        """timm's name for the format's ``name``, with the tensor as it is; None if the name is not in the table."""
        ours = _translated(name, self._to, GRN)
        return None if ours is None else (ours, tensor)

    def from_timm(self, name: str) -> str | None:
        """The format's name for timm's ``name``; None if it is not in the table."""
        return _translated(name, self._from, self.grn)


def _pattern(name: str, timm: str) -> re.Pattern[str]:
    numbered = re.sub(r"\\{(\w)\\}", r"(?P<\1>[0-9]+)", re.escape(name))
    kind = "(?P<kind>)" if timm.endswith(PARAMETERS) else r"\.(?P<kind>weight|bias|gamma|beta)"
    return re.compile(numbered + kind)


def _translated(name: str, rows: list[tuple[re.Pattern[str], str]], grn: dict[str, str]) -> str | None:
    for pattern, template in rows:
        if match := pattern.fullmatch(name):
            module, kind = template.format(**match.groupdict()), match["kind"]
            if module.endswith(".grn"):
                kind = grn.get(kind, kind)
            return f"{module}.{kind}" if kind else module
    return None


def networks(block: str, names: Sequence[str]) -> Networks:
    """Networks by the names that identify them.

    Args:
        block: regular expression for the modules of a block that this format alone has, as its network names them.
        names: of a state dict.
    """
    pattern = re.compile(rf"(?P<prefix>(?:.*?\.)?){block}\..*")
    found: Networks = {}
    for name in names:
        if match := pattern.fullmatch(name):
            found.setdefault(match["prefix"], set()).add(name)
    return found

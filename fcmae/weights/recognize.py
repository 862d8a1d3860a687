"""Which format a state dict is in, by its names alone, and our name for each of its parameters."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from fcmae.errors import UserError
from fcmae.weights import formats
from fcmae.weights.entries import say_which
from fcmae.weights.formats import Format
from fcmae.weights.formats.base import SIBLINGS

WRAPPERS = ("module.", "_orig_mod.")  # DDP, torch.compile
INNER_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # around a part of the network
COUNTERS = frozenset({"n_averaged", "steps", "step", "num_updates", "updates", "initted", "decay"})  # of an average
EMA = re.compile(r"(?:^|[._])(?:ema|averaged|avg|swa|shadow)(?:$|[._])")


class Found(NamedTuple):
    """A parameter of the source."""

    ours: str | None
    """Our name for it; None if it is unknown."""
    source_name: str
    tensor: Tensor
    """With a dense layer's axes."""


class Recognized(NamedTuple):
    """A network's parameters under our names."""

    format: Format
    prefix: str
    """What precedes the network's names in the source."""
    wrapper: str
    """What DDP or torch.compile put before every name."""
    found: list[Found]
    left: list[str]
    """The source's names that are known to have no place in any network."""

    def source_name(self, ours: str) -> str:
        """What the source would call a parameter that it lacks; the other parameter of its layer tells, if there."""
        layer, _, kind = ours.rpartition(".")
        for found in self.found:
            if kind in SIBLINGS and found.ours == f"{layer}.{SIBLINGS[kind]}":
                return self.format.sibling(found.source_name, found.tensor)
        return self.wrapper + full_name(self.format, self.prefix, ours)


def full_name(format: Format, prefix: str, ours: str) -> str:
    """The format's name for a parameter of ours, with what precedes it; ours if the format has none."""
    theirs = format.from_timm(ours) or ours
    return format.holder(prefix) + theirs if format.is_beside(theirs) else prefix + theirs


def recognize(tensors: Mapping[str, Tensor], origin: str, use_ema: bool = True) -> Recognized:
    """Find the one ConvNeXt among these tensors, and our names for its parameters.

    Of two that are a network and its average (``model.…`` and ``model_ema.…``), ``use_ema`` says which.

    Raises:
        UserError: there is none, or more than one.
    """
    unwrapped = {name: _unwrapped(name) for name in tensors}
    format, prefix, other = _find_network(list(unwrapped.values()), origin, use_ema)
    holder = format.holder(prefix)
    found, left = [], []
    for source_name, tensor in tensors.items():
        name = unwrapped[source_name]
        if _is_of_other(name, holder, other) or (tensor.numel() == 1 and name.rpartition(".")[2] in COUNTERS):
            left.append(source_name)
            continue
        if name.startswith(prefix):
            name = name.removeprefix(prefix)
            named = format.to_timm(name, tensor)
        else:
            name = name.removeprefix(holder)
            named = format.beside(name, tensor)
        if named is not None:
            found.append(Found(named[0], source_name, named[1]))
        elif name.startswith(format.leftovers):
            left.append(source_name)
        else:
            found.append(Found(None, source_name, tensor))
    first, name = next(iter(unwrapped.items()))
    return Recognized(format, prefix, first.removesuffix(name) if first.endswith(name) else "", found, left)


def _is_of_other(name: str, holder: str, other: str | None) -> bool:
    """Whether a name is of the copy that is not taken; one of the two may hold the other."""
    if other is None or not name.startswith(other):
        return False
    return not (name.startswith(holder) and len(holder) > len(other))


def _unwrapped(name: str) -> str:
    while name.startswith(WRAPPERS):
        name = name.partition(".")[2]
    if not any(wrapper in name for wrapper in INNER_WRAPPERS):
        return name
    return ".".join(part for part in name.split(".") if part not in INNER_WRAPPERS)


def _find_network(names: Sequence[str], origin: str, use_ema: bool) -> tuple[Format, str, str | None]:
    """The format and the prefix of the one ConvNeXt among these names; and what holds a copy that is not taken."""
    networks: list[tuple[str, Format]] = []
    claimed: set[str] = set()
    for format in formats.KNOWN:
        for prefix, telling in format.matches(names).items():
            if not telling <= claimed:
                networks.append((prefix, format))
            claimed |= telling
    if not networks:
        some = ", ".join(sorted(names)[:3]) or "nothing"
        known = "; ".join(dict.fromkeys(format.name for format in formats.KNOWN))
        raise UserError(f"{origin} holds no ConvNeXt encoder of a known format ({known}), but {some}")
    averaged = [prefix for prefix, _ in networks if EMA.search(prefix)]
    if len(networks) == 2 and len(averaged) == 1 and networks[0][0] != networks[1][0]:
        (plain,) = (prefix for prefix, _ in networks if prefix not in averaged)
        say_which(origin, f"{averaged[0]}…", f"{plain}…", use_ema)
        taken, other = (averaged[0], plain) if use_ema else (plain, averaged[0])
        of_prefix = dict(networks)
        return of_prefix[taken], taken, of_prefix[other].holder(other)
    if len(networks) > 1:
        several = " and ".join(f"{prefix}… ({format.name})" for prefix, format in sorted(networks, key=lambda n: n[0]))
        if len({prefix for prefix, _ in networks}) < len(networks):  # a format's own fault, not the file's
            raise UserError(f"{origin}: the same names match more than one format: {several}")
        raise UserError(f"{origin} holds more than one network: {several}; give the state dict of one")
    prefix, format = networks[0]
    return format, prefix, None

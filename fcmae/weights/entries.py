"""The state dict in what a training script saved: under which entry it lies, averaged (EMA) or not."""

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from fcmae.errors import UserError
from fcmae.weights.unpickle import Placeholder, needs_code, saved_arguments

logger = logging.getLogger(__name__)

# Entries that may hold the weights, most likely first
PLAIN = ("model", "state_dict", "model_state_dict", "module", "net", "network", "weights", "params")
# The same, averaged over the steps; timm's and the official code's first
AVERAGED = (
    "state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema_model_state_dict",
    "model_state_dict_ema", "ema_model", "module_ema", "ema", "net_ema", "ema_net", "params_ema", "ema_params",
    "weights_ema", "ema_weights", "averaged_model", "swa_state_dict", "shadow_params",
)  # fmt: skip
# Frameworks that put the averaged weights where the plain ones are expected, and the plain ones here
SWAPPED = {"ema_state_dict": ("message_hub", "meta"), "current_model_state": ("averaging_state",)}


class StateDict(NamedTuple):
    """A state dict as found."""

    tensors: dict[str, Tensor]
    left: list[str]
    """Other entries: optimizer, epoch, …"""
    args: Mapping[str, Any]
    """The training script's arguments, if it saved them as ``args``."""


def find_state_dict(found: Any, origin: str, use_ema: bool = True) -> StateDict:
    """Down through ``{"model": …}`` and the like to the state dict.

    Args:
        found: what a file holds, or an object of the caller's.
        origin: begins every message.
        use_ema: of two state dicts, take the averaged one; False: the other.

    Raises:
        UserError: no state dict in it, or only an averaged one with ``use_ema`` False.
    """
    left: list[str] = []
    args: Mapping[str, Any] = {}
    while isinstance(found, Mapping):
        entry = _entry(found, origin, use_ema)
        if entry is None:
            break
        args = saved_arguments(found.get("args")) or args
        left += [str(name) for name in found if name != entry]
        found = found[entry]
    if isinstance(found, nn.Module):
        found = found.state_dict()
    if isinstance(found, Placeholder):
        raise UserError(needs_code(origin, found.name))
    if not isinstance(found, Mapping):
        raise UserError(f"{origin} holds {type(found).__name__}, not a state dict")
    tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    others = {str(name): value for name, value in found.items() if not isinstance(value, Tensor)}
    if tensors:  # SparK keeps its settings among the weights
        left += [name for name, value in others.items() if isinstance(value, Mapping)]
        others = {name: value for name, value in others.items() if not isinstance(value, Mapping)}
    if not tensors and {"state", "param_groups"} <= others.keys():
        raise UserError(f"{origin} holds the state of an optimizer, not weights; the weights are in another file")
    for value in others.values():
        if isinstance(value, Placeholder) and not tensors:
            raise UserError(needs_code(origin, value.name))
    if others:
        raise UserError(f"{origin}: a state dict maps names to tensors; not tensors: {', '.join([*others][:5])}")
    return StateDict(tensors, left, args)


def _entry(found: Mapping[Any, Any], origin: str, use_ema: bool) -> str | None:
    """The entry that holds the weights; None if ``found`` is the state dict itself."""
    plain, averaged = _first(found, PLAIN), _first(found, AVERAGED)
    if plain is None and averaged is None:
        return next((name for name in PLAIN if isinstance(found.get(name), Mapping)), None)
    for swapped, signs in SWAPPED.items():
        if plain is not None and _holds_tensors(found.get(swapped)) and any(sign in found for sign in signs):
            plain, averaged = swapped, plain
            break
    if averaged is None:
        return plain
    if plain is None:
        if not use_ema:
            raise UserError(f"{origin} holds averaged weights only ({averaged}); take them without use_ema=False")
        return averaged
    say_which(origin, averaged, plain, use_ema)
    return averaged if use_ema else plain


def say_which(origin: str, averaged: str, plain: str, use_ema: bool) -> None:
    """Log which of two networks is taken."""
    if use_ema:
        logger.info("%s: the averaged weights (%s) are taken; use_ema=False takes %s", origin, averaged, plain)
    else:
        logger.info("%s: the weights that are not averaged (%s) are taken, not %s", origin, plain, averaged)


def _first(found: Mapping[Any, Any], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if _holds_tensors(found.get(name))), None)


def _holds_tensors(value: Any) -> bool:
    """A module, or a dict with a tensor somewhere in it."""
    if isinstance(value, Mapping):
        return any(isinstance(one, Tensor) or _holds_tensors(one) for one in value.values())
    return isinstance(value, nn.Module)

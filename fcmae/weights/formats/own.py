"""fcmae's own checkpoints: timm's names in ``encoder.``, a decoder beside it."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from fcmae.weights.formats.base import Named, Networks
from fcmae.weights.formats.timm import TIMM
from fcmae.weights.weights import DECODER


def matches(names: Sequence[str]) -> Networks:
    """A network as timm names it, with a decoder in the module that holds it."""
    found = {}
    for prefix, telling in TIMM.matches(names).items():
        decoder = OWN.holder(prefix) + DECODER
        if any(name.startswith(decoder) and not (prefix and name.startswith(prefix)) for name in names):
            found[prefix] = telling
    return found


def from_timm(name: str) -> str | None:
    """As timm's; the decoder's names are our own."""
    return name if name.startswith(DECODER) else TIMM.from_timm(name)


def beside(name: str, tensor: Tensor) -> Named | None:
    """The decoder."""
    return (name, tensor) if name.startswith(DECODER) else None


OWN = replace(
    TIMM, name="fcmae", matches=matches, from_timm=from_timm, beside=beside, held_as=("encoder.",), target=None
)

"""The names of the taps, importable without torch: they are an option of ``fcmae collapse``."""

from typing import Literal, get_args

Tap = Literal["expansion", "act", "grn", "block"]
"""Which tensor of a block:

- ``expansion``: output of the expansion layer C → 4C, before the activation;
- ``act``: after the activation (GELU);
- ``grn``: after GRN, the input of the layer 4C → C; ``act`` in blocks without GRN;
- ``block``: the output of the block.
"""
TAPS: tuple[Tap, ...] = get_args(Tap)

"""Adapts the first convolution to another number of channels, as timm does."""

import logging
from collections.abc import Sequence

from timm.models import adapt_input_conv
from torch import Tensor

from fcmae.errors import UserError
from fcmae.weights.weights import Weights

logger = logging.getLogger(__name__)

RGB = 3


def to_channels(weights: Weights, name: str, in_chans: int, bands: Sequence[int] | None = None) -> dict[str, Tensor]:
    """The encoder's weights with the kernel ``name`` adapted to ``in_chans`` channels.

    Weights of more channels give those of ``bands`` (counted from 1). Of weights for red, green and blue, one channel
    gets the sum; more get them repeated, scaled by 3 / in_chans.

    Raises:
        UserError: another number of channels than the weights have, and those are not three.
    """
    kernel = weights.encoder[name]
    has = kernel.shape[1]
    if has == in_chans:
        return weights.encoder
    if bands is not None and len(bands) == in_chans and in_chans < has and max(bands) <= has:
        logger.info("%s: of its %d channels, those of --data.bands %s", weights.origin, has, ",".join(map(str, bands)))
        return weights.encoder | {name: kernel[:, [band - 1 for band in bands]]}
    if has != RGB:
        raise UserError(
            f"{weights.origin} takes images of {has} channels, expected {in_chans}; only a network for {RGB} can be "
            f"adapted to another number"
        )
    logger.info("%s: its first convolution is adapted from %d to %d channels", weights.origin, has, in_chans)
    return weights.encoder | {name: adapt_input_conv(in_chans, kernel)}

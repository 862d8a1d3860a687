"""Converts weights of any format to those of a dense network, in a chosen library's format."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fcmae.errors import UserError
from fcmae.weights.formats import targets
from fcmae.weights.read import abridged, read_weights
from fcmae.weights.recognize import full_name
from fcmae.weights.weights import Weights

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion."""

    weights: Weights
    """What was read."""
    state: dict[str, Tensor]
    """Under the target's names, in its shapes."""
    source_names: dict[str, str]
    """target's name → the source's."""
    left: list[str]
    """Names of the source that have no place in the target."""
    prefix: str
    """Before the network's names in the target: a transformers classifier has one."""


def convert_to_dense(
    ckpt: str | Path | Mapping[str, Any],
    format: str = "timm",
    *,
    allow_pickle: bool = False,
    use_ema: bool = True,
) -> dict[str, Tensor]:
    """The weights of a ConvNeXt under the names, and in the shapes, of a dense network.

    ``timm.create_model(name, num_classes=0).load_state_dict(state, strict=False)`` then lacks only ``head.norm``,
    which a pretrained encoder does not have. :func:`fcmae.create_dense` does this, and handles other stems, channels
    and classifiers. (timm has isotropic networks once ``fcmae.models.isotropic`` is imported.)

    Args:
        ckpt: a run folder (its newest checkpoint, or if it was fine-tuned its best), a checkpoint folder (also of
            transformers or timm, in one file or in shards), a ``.safetensors``, ``.pt``, ``.pth`` or ``.bin`` file, or
            a state dict. Of fcmae, timm, transformers, mmpretrain, mmdet, mmseg, MMEarth, SparK, or the official code:
            published, fine-tuned, for detection and segmentation, or its training checkpoints in MinkowskiEngine's
            layout. ConvNeXt V1 too.
        format: of what is returned. "timm"; "official", as the published files (``downsample_layers.0.0.weight``);
            "transformers", the names of ``ConvNextV2Model`` or ``ConvNextModel``, or of their
            ``…ForImageClassification`` if there is a classifier; "mmpretrain", with ``backbone.``.
        allow_pickle: unpickle anything, which runs code contained in the file.
        use_ema: of weights and their average over the steps (EMA), take the average, as timm does; False: the others.

    Returns:
        A dict of tensors: dtypes as they were, copied only where the layout differs. The format that was recognized
        and what has no place in the result (a decoder, an optimizer) are logged to ``fcmae`` at INFO.

    Raises:
        ValueError: an unknown format, nothing that could be read at the path, or keys that are missing, unknown, of a
            wrong shape or not finite.
    """
    return convert_weights(ckpt, format, allow_pickle=allow_pickle, use_ema=use_ema).state


def convert_weights(
    ckpt: str | Path | Mapping[str, Any],
    format: str = "timm",
    *,
    allow_pickle: bool = False,
    use_ema: bool = True,
) -> Conversion:
    """Like :func:`convert_to_dense`, with a report."""
    if format not in targets():
        raise UserError(f"format must be one of {', '.join(targets())}, got {format!r}")
    return in_format(read_weights(ckpt, allow_pickle, use_ema), format)


def in_format(weights: Weights, format: str) -> Conversion:
    """Like :func:`convert_weights`, of weights that have been read."""
    names, target = targets()[format]
    target.check(weights)
    names = names.variant(weights) or names
    prefix = target.prefix(weights)
    state, source_names = {}, {}
    for name, tensor in {**weights.encoder, **weights.head}.items():
        if names.from_timm(name) is None:
            raise UserError(f"{weights.origin}: {name} has no place in the {format} format")
        theirs = full_name(names, prefix, name)
        state[theirs] = target.layout(name, tensor)
        source_names[theirs] = weights.source_names[name]
    decoder = [weights.source_names[name] for name in weights.decoder]
    if decoder:
        logger.info("%s: no place in a dense encoder for %s", weights.origin, abridged(decoder))
    return Conversion(weights, state, source_names, weights.left + decoder, prefix)

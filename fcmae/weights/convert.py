"""Weights of any format as a dense network's, in the format of the library that is to use them."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fcmae.errors import UserError
from fcmae.weights.canonical import Weights, abridged, read_weights
from fcmae.weights.names import from_timm

logger = logging.getLogger(__name__)

FORMATS = ("timm", "official", "transformers")


@dataclass(frozen=True)
class Conversion:
    """What a conversion gave."""

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
    ckpt: str | Path | Mapping[str, Any], format: str = "timm", *, allow_pickle: bool = False
) -> dict[str, Tensor]:
    """The weights of a ConvNeXt under the names, and in the shapes, of a dense network.

    ``timm.create_model(name, num_classes=0).load_state_dict(state, strict=False)`` then lacks ``head.norm`` alone,
    which a pretrained encoder does not have; :func:`fcmae.create_dense` does this, and sees to other stems, channels
    and classifiers.

    Args:
        ckpt: a run folder, a checkpoint folder (also of transformers or timm), a ``.safetensors``, ``.pt``, ``.pth`` or
            ``.bin`` file, or a state dict. Of fcmae, timm, transformers, mmpretrain, MMEarth, or the official code:
            published, fine-tuned, or its training checkpoints in MinkowskiEngine's layout. ConvNeXt V1 too.
        format: of what is returned. "timm"; "official", as the published files (``downsample_layers.0.0.weight``);
            "transformers", the names of ``ConvNextV2Model`` or ``ConvNextModel``, or of their
            ``…ForImageClassification`` if there is a classifier.
        allow_pickle: unpickle whatever a file holds, which runs code that the file brings.

    Returns:
        A dict of tensors: dtypes as they were, copied only where the layout differs. The format that was recognized
        and what has no place in the result (a decoder, an optimizer) are told to the logger ``fcmae`` at INFO.

    Raises:
        ValueError: an unknown format, nothing that could be read at the path, or keys that are missing, unknown, of a
            wrong shape or not finite.
    """
    return convert(ckpt, format, allow_pickle=allow_pickle).state


def convert(ckpt: str | Path | Mapping[str, Any], format: str = "timm", *, allow_pickle: bool = False) -> Conversion:
    """As :func:`convert_to_dense`, with a report."""
    if format not in FORMATS:
        raise UserError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    weights = read_weights(ckpt, allow_pickle)
    _check_has_place(weights, format)
    prefix = ""
    if format == "transformers" and "head.fc.weight" in weights.head:
        prefix = "convnextv2." if weights.config.with_grn else "convnext."
    state, source_names = {}, {}
    for name, tensor in {**weights.encoder, **weights.head}.items():
        target = _target_name(name, format, prefix)
        state[target] = _target_shape(name, tensor, format)
        source_names[target] = weights.source_names[name]
    decoder = [weights.source_names[name] for name in weights.decoder]
    if decoder:
        logger.info("%s: no place in a dense encoder for %s", weights.origin, abridged(decoder))
    return Conversion(weights, state, source_names, weights.left + decoder, prefix)


def _target_name(name: str, format: str, prefix: str) -> str:
    if format == "transformers" and name.startswith("head.fc."):
        return name.replace("head.fc.", "classifier.")
    target = from_timm(name, format)
    if target is None:
        raise UserError(f"{name} has no place in the {format} format")
    return prefix + target


def _target_shape(name: str, tensor: Tensor, format: str) -> Tensor:
    if format == "timm":
        return tensor
    if ".mlp.grn." in name:
        return tensor.reshape(1, 1, 1, -1)
    return tensor.flatten(1) if ".mlp.fc" in name and tensor.ndim == 4 else tensor


def _check_has_place(weights: Weights, format: str) -> None:
    """UserError for networks that the format's own code cannot build."""
    if format == "timm":
        return
    if weights.has_mmearth_stem:
        raise UserError(
            f"{weights.origin}: MMEarth's stem (a 3×3 convolution before a depthwise one) has no place in the {format} "
            f"format; fcmae.create_dense makes a timm network with it"
        )
    if weights.config.with_grn and weights.config.with_layer_scale:
        raise UserError(f"{weights.origin}: the {format} format has no network with both GRN and LayerScale; take timm")

"""Weights into networks of this toolkit: a run's own FCMAE again, or any checkpoint as the start of a new one."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from fcmae.errors import UserError
from fcmae.models import FCMAE, SparseConvNeXt
from fcmae.weights.channels import to_channels
from fcmae.weights.read import read_weights
from fcmae.weights.settings import run_setting
from fcmae.weights.weights import Weights

logger = logging.getLogger(__name__)

Network = TypeVar("Network", FCMAE, SparseConvNeXt)


def load_model(
    ckpt: str | Path | Mapping[str, Any], backend: str = "auto", *, allow_pickle: bool = False, use_ema: bool = True
) -> FCMAE:
    """An FCMAE, encoder and decoder, in eval mode: of a run of this toolkit, or an official training checkpoint.

    Args:
        ckpt: a run folder (its newest checkpoint), a checkpoint folder, its ``model.safetensors``, a training
            checkpoint of the official code, or a state dict with encoder and decoder.
        backend: as of :class:`fcmae.ModelConfig`; the one of training may not be installed here.
        allow_pickle: as of :func:`fcmae.convert_to_dense`.
        use_ema: as there.

    Raises:
        ValueError: no checkpoint there, one that is damaged, or one without a decoder.
    """
    weights = read_weights(ckpt, allow_pickle, use_ema)
    if not weights.decoder or weights.has_mmearth_stem:
        raise UserError(
            f"{weights.origin} ({weights.format}) holds an encoder without FCMAE's decoder; only a run of "
            f"fcmae.pretrain or an official training checkpoint has both"
        )
    ratio = None if isinstance(ckpt, Mapping) else run_setting(Path(weights.origin), "train", "mask_ratio", float)
    chosen: dict[str, Any] = {"backend": backend}
    model = FCMAE(replace(weights.config, **chosen), mask_ratio=ratio or weights.mask_ratio or 0.6)
    state = {f"encoder.{name}": tensor for name, tensor in weights.encoder.items()} | weights.decoder
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise UserError(f"{weights.origin} does not hold the network it describes: {_one_line(error)}") from None
    return model.eval()


def load_encoder(
    model: Network,
    ckpt: str | Path | Mapping[str, Any],
    *,
    allow_pickle: bool = False,
    use_ema: bool = True,
    bands: Sequence[int] | None = None,
) -> Network:
    """Load a checkpoint's weights into a network, to continue pretraining on your own images.

    The checkpoint must hold a whole encoder of the same size. A first convolution for another number of channels is
    adapted as timm does. The decoder is loaded too if the checkpoint has one of the same shapes (ours, or that of an
    official training checkpoint). Otherwise it keeps its weights. The log says which.

    Args:
        model: changed in place.
        ckpt: as of :func:`fcmae.convert_to_dense`, in any of its formats.
        allow_pickle: as there.
        use_ema: as there.
        bands: which channels of a checkpoint with more of them the network takes, counted from 1.

    Returns:
        ``model`` itself.

    Raises:
        ValueError: as :func:`fcmae.convert_to_dense`, or weights of another network.
    """
    weights = read_weights(ckpt, allow_pickle, use_ema)
    if not isinstance(model, FCMAE | SparseConvNeXt):
        raise UserError(f"load_encoder fills an FCMAE or its encoder, got {type(model).__name__}; unwrap it first")
    encoder = model.encoder if isinstance(model, FCMAE) else model
    wanted = encoder.state_dict()
    if weights.has_mmearth_stem:
        raise UserError(
            f"{weights.origin}: MMEarth's stem (a 3×3 convolution before a depthwise one) looks beyond a patch, which "
            f"the sparse encoder does not; weights with its original stem can be loaded"
        )
    state = to_channels(weights, "stem.0.weight", wanted["stem.0.weight"].shape[1], bands)
    if problems := _differences(state, wanted):
        raise UserError(f"{weights.origin} holds a {weights.config.name} that is not this network: {problems}")
    encoder.load_state_dict(state, strict=True)
    with_decoder = isinstance(model, FCMAE) and _load_decoder(model.decoder, weights)
    fresh = "" if with_decoder or not isinstance(model, FCMAE) else "; the decoder starts fresh"
    logger.info(
        "encoder%s from %s (%s)%s", " and decoder" if with_decoder else "", weights.origin, weights.format, fresh
    )
    return model


def _load_decoder(decoder: nn.Module, weights: Weights) -> bool:
    if not weights.decoder:
        return False
    wanted = decoder.state_dict()
    given = {name.removeprefix("decoder."): tensor for name, tensor in weights.decoder.items()}
    if problems := _differences(given, wanted):
        logger.warning("%s: its decoder has another shape and was left out: %s", weights.origin, problems)
        return False
    decoder.load_state_dict(given, strict=True)
    return True


def _differences(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """What keeps a state dict from fitting, a few names of each kind; empty if nothing does."""
    missing = sorted(wanted.keys() - state.keys())
    unknown = sorted(state.keys() - wanted.keys())
    shapes = [
        f"{k} is {list(state[k].shape)}, the network's {list(wanted[k].shape)}"
        for k in sorted(state.keys() & wanted.keys())
        if state[k].shape != wanted[k].shape
    ]
    kinds = {"missing ": missing, "not in the network: ": unknown, "": shapes}
    return "; ".join(
        prefix + ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        for prefix, names in kinds.items()
        if names
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())

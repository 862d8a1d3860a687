"""A checkpoint's encoder as a timm network, ready to use: for fine-tuning, or as a backbone."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import LayerNorm2d
from timm.models import FeatureListNet
from torch import nn

from fcmae.data.normalizer import Normalizer
from fcmae.errors import UserError
from fcmae.models import isotropic  # noqa: F401  # registers its names with timm
from fcmae.models.layers import LAYER_NORM_EPS
from fcmae.models.outline import outlined
from fcmae.weights.channels import to_channels
from fcmae.weights.formats.timm import model_args
from fcmae.weights.read import read_weights
from fcmae.weights.settings import normalization
from fcmae.weights.weights import Weights

logger = logging.getLogger(__name__)


def create_dense(
    ckpt: str | Path | Mapping[str, Any],
    num_classes: int | None = 0,
    *,
    allow_pickle: bool = False,
    use_ema: bool = True,
    **timm_kwargs: Any,
) -> nn.Module:
    """A timm ConvNeXt with a checkpoint's weights in it (of isotropic ones, that of :mod:`fcmae.models.isotropic`).

    Args:
        ckpt: as of :func:`fcmae.convert_to_dense`, in any of its formats.
        num_classes: outputs of the classifier; 0: none, the network gives pooled features; None: as many as the
            checkpoint's. The checkpoint's classifier is used if it has as many, otherwise a fresh one.
        allow_pickle: as of :func:`fcmae.convert_to_dense`.
        use_ema: as there: False takes weights that are not averaged, where a checkpoint has both.
        timm_kwargs: for ``timm.create_model``: ``drop_path_rate``, … For another ``in_chans`` than the checkpoint's the
            first convolution is adapted as timm does. ``features_only=True`` gives a list of feature maps,
            [B, C, H / reduction, W / reduction], of the stages ``out_indices`` (all: four, or one if isotropic).

    Returns:
        The network in training mode, as timm gives it. ``model.pretrained_cfg`` has the mean and standard deviation of
        the run's images, which ``timm.data.resolve_model_data_config`` reads.

    Raises:
        ValueError: as :func:`fcmae.convert_to_dense`.
    """
    weights = read_weights(ckpt, allow_pickle, use_ema)
    in_chans = timm_kwargs.get("in_chans", weights.config.in_chans)
    num_classes = weights.num_classes if num_classes is None else num_classes
    return dense_network(weights, normalization(ckpt, in_chans), num_classes, **timm_kwargs)


def dense_network(weights: Weights, pixels: Normalizer, num_classes: int = 0, **timm_kwargs: Any) -> nn.Module:
    """As :func:`create_dense`, of weights that have been read, with the mean and standard deviation of ``pixels``."""
    features_only = timm_kwargs.pop("features_only", False)
    out_indices: Sequence[int] | int | None = timm_kwargs.pop("out_indices", None)
    in_chans = timm_kwargs.pop("in_chans", weights.config.in_chans)

    def build() -> Any:
        built = timm.create_model(
            weights.config.name, num_classes=0 if features_only else num_classes, in_chans=in_chans,
            **model_args(weights) | timm_kwargs,
        )  # fmt: skip
        _make_stem(built, weights, in_chans)
        return built

    with outlined():
        model = build()
    state = to_channels(weights, "stem.0.weight", in_chans) | _head_for(weights, model, features_only)
    model = _with_room(model, state) or build()
    try:
        loaded = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # arguments for timm that make another network
        raise UserError(
            f"{weights.origin} does not fit timm's {weights.config.name} with {timm_kwargs}: "
            f"{' '.join(str(error).split())[:300]}"
        ) from None
    lost = [name for name in loaded.missing_keys if not name.startswith("head.")] + loaded.unexpected_keys
    if lost:
        raise UserError(
            f"{weights.origin} does not fit timm's {weights.config.name} with {timm_kwargs}: {', '.join(lost[:5])}"
        )
    if (fresh := loaded.missing_keys) and not features_only and not weights.is_random:
        logger.info("%s lacks %s: initialized afresh", weights.origin, ", ".join(fresh))
    config = dict(model.pretrained_cfg, mean=pixels.mean, std=pixels.std, num_classes=num_classes)
    config["input_size"] = (in_chans, *weights.config.image_hw)
    config |= {"url": "", "hf_hub_id": None}  # those are of timm's own weights
    if features_only:
        indices = tuple(range(len(weights.config.size.depths))) if out_indices is None else out_indices
        model = FeatureListNet(model, out_indices=indices, flatten_sequential=True)
    model.pretrained_cfg = model.default_cfg = config
    return model


def _with_room(outline: Any, state: Mapping[str, Any]) -> Any:
    """The network with memory for the values of ``state``; None if more are needed that are drawn at random."""
    wanted = outline.state_dict()
    norm = {name for name in wanted if name.startswith("head.norm.")}  # the only part that starts from ones and zeros
    if wanted.keys() - norm - state.keys() or not all(tensor.is_meta for tensor in wanted.values()):
        return None
    model = outline.to_empty(device=torch.get_default_device())
    if norm:
        model.head.norm.reset_parameters()
    return model


def _make_stem(model: Any, weights: Weights, in_chans: int) -> None:
    """Replace timm's stem by the one of the weights, and correct the reductions in ``feature_info``."""
    stride, usual, dim = weights.config.stride, weights.config.size.stem_stride, weights.config.size.dims[0]
    if weights.has_mmearth_stem:
        model.stem = nn.Sequential(
            nn.Conv2d(in_chans, dim, 3),
            LayerNorm2d(dim, eps=LAYER_NORM_EPS),
            nn.GELU(),
            nn.Conv2d(dim, dim, stride, stride, padding=stride // 2, groups=dim),
            LayerNorm2d(dim, eps=LAYER_NORM_EPS),
        )
    elif stride != usual:
        model.stem[0] = nn.Conv2d(in_chans, dim, stride, stride)
    for info in model.feature_info:
        info["reduction"] = info["reduction"] * stride // usual


def _head_for(weights: Weights, model: nn.Module, features_only: bool) -> dict[str, Any]:
    """The part of the checkpoint's head that fits the network; the rest is logged."""
    wanted = {} if features_only else {k: v for k, v in model.state_dict().items() if k.startswith("head.")}
    taken = {k: v for k, v in weights.head.items() if k in wanted and wanted[k].shape == v.shape}
    if left := [k for k in weights.head if k not in taken]:
        logger.info("%s: its %s not used", weights.origin, " and ".join(left) + (" is" if len(left) == 1 else " are"))
    return taken

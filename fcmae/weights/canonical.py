"""Any checkpoint to one form, the encoder under timm's names in dense shapes: whole, checked, nothing dropped."""

import logging
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fcmae.errors import UserError
from fcmae.models import ModelConfig, SparseConvNeXt
from fcmae.models.config import STEM_STRIDES
from fcmae.models.sizes import SIZES, version_of
from fcmae.weights.files import open_source
from fcmae.weights.layouts import in_shape
from fcmae.weights.recognise import Recognised, recognise

logger = logging.getLogger(__name__)

HEAD, DECODER = "head.", "decoder."


@dataclass
class Weights:
    """A checkpoint's weights in the one form."""

    origin: str
    """File, or "the state dict"."""
    format: str
    """In words, as recognised."""
    config: ModelConfig
    """The network they are of."""
    encoder: dict[str, Tensor] = field(default_factory=dict)
    head: dict[str, Tensor] = field(default_factory=dict)
    """``head.norm`` and ``head.fc``, if there are any."""
    decoder: dict[str, Tensor] = field(default_factory=dict)
    """Of an FCMAE, under our names, ``decoder.…``."""
    source_names: dict[str, str] = field(default_factory=dict)
    """What the source calls each of them."""
    left: list[str] = field(default_factory=list)
    """What else the source holds."""

    @property
    def has_mmearth_stem(self) -> bool:
        """A 3×3 convolution, then a depthwise one with stride, each with a norm: timm's layers, not timm's network."""
        return "stem.3.weight" in self.encoder


def read_weights(ckpt: str | Path | Mapping[str, Any], allow_pickle: bool = False) -> Weights:
    """Recognise the format, and bring the weights to the one form.

    Raises:
        UserError: no ConvNeXt in it, or keys that are missing, unknown, twice there, of a wrong shape, or not finite.
    """
    source = open_source(ckpt, allow_pickle)
    recognised = recognise(source.tensors, source.origin)
    weights = Weights(source.origin, recognised.words, ModelConfig(), left=source.left + recognised.left)
    problems = []
    for ours, original, tensor in recognised.found:
        if ours is None:
            problems.append(f"unknown {original}")
        elif ours in weights.source_names:
            problems.append(f"{original} beside {weights.source_names[ours]}")
        else:
            weights.source_names[ours] = original
            part = weights.head if ours.startswith(HEAD) else weights.decoder
            (part if ours.startswith((HEAD, DECODER)) else weights.encoder)[ours] = tensor
    weights.config = source.config or _guess_config(weights, recognised)
    problems += _fit_shapes(weights, recognised)
    problems += [f"{weights.source_names[name]} is not finite" for name in _not_finite(weights)]
    if problems:
        raise UserError(
            f"{weights.origin} does not hold one whole {weights.config.name} ({weights.format}): {'; '.join(problems)}"
        )
    logger.info("%s: %s, format %s", weights.origin, weights.config.name, weights.format)
    if source.config is None and weights.config.with_grn:
        logger.info("(the weights published with ConvNeXt V2 are under CC BY-NC 4.0, in every format)")
    return weights


def _guess_config(weights: Weights, recognised: Recognised) -> ModelConfig:
    """The configuration whose encoder has these depths and widths; what most blocks say counts."""
    blocks: dict[tuple[int, int], list[str]] = {}
    for name in weights.encoder:
        if match := re.match(r"stages\.(\d+)\.blocks\.(\d+)\.", name):
            blocks.setdefault((int(match[1]), int(match[2])), []).append(name)
    blocks = {place: names for place, names in blocks.items() if len(names) > 1}  # a lone one is a stranger
    widths = [
        Counter(
            weights.encoder[name].shape[-1]
            for (stage, _), names in blocks.items()
            for name in names
            if stage == s and name.endswith((".norm.weight", ".norm.bias", ".conv_dw.bias"))
        ).most_common(1)
        for s in range(4)
    ]
    depths = tuple(sum(stage == s for stage, _ in blocks) for s in range(4))
    dims = tuple(width[0][0] if width else 0 for width in widths)
    names = [name for name, size in SIZES.items() if (size.depths, size.dims) == (depths, dims)]
    whole = f"{weights.origin} ({weights.format}) does not hold one whole encoder"
    if not names:
        raise UserError(f"{whole}: no size has depths {depths} and dims {dims}")
    stem_names = ("stem.3.weight", "stem.0.weight") if weights.has_mmearth_stem else ("stem.0.weight",)
    for name in stem_names:
        if name not in weights.encoder:
            raise UserError(f"{whole}: missing {recognised.source_name(name)}")
        shape = list(weights.encoder[name].shape)
        if len(shape) != 4 or (name == stem_names[0] and shape[-1] not in STEM_STRIDES):
            raise UserError(
                f"{whole}: {weights.source_names[name]} is {shape}, expected [{dims[0]}, channels, s, s] with s of "
                f"{', '.join(map(str, STEM_STRIDES))}"
            )
    stride = weights.encoder[stem_names[0]].shape[-1]
    with_grn = _most(blocks, ".mlp.grn.weight")
    return ModelConfig(
        name=next((n for n in names if version_of(n).use_grn == with_grn), names[0]),
        img_size=56 * stride,
        in_chans=weights.encoder["stem.0.weight"].shape[1],
        stem_stride=stride,
        use_grn=with_grn,
        use_layer_scale=_most(blocks, ".gamma"),
    )


def _most(blocks: dict[tuple[int, int], list[str]], ending: str) -> bool:
    """Whether more than half of the blocks have a parameter of this name."""
    return 2 * sum(any(name.endswith(ending) for name in names) for names in blocks.values()) > len(blocks)


def _fit_shapes(weights: Weights, recognised: Recognised) -> list[str]:
    """Give every tensor its dense shape; what is missing, unknown or of another shape is told."""
    config = weights.config
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in SparseConvNeXt(config).state_dict().items()}
    if weights.has_mmearth_stem:
        dim, side = config.size.dims[0], config.stem_stride
        stem: dict[str, tuple[int, ...]] = {"0.weight": (dim, config.in_chans, 3, 3), "3.weight": (dim, 1, side, side)}
        stem |= {
            f"{n}.{kind}": (dim,) for n in (0, 1, 3, 4) for kind in ("weight", "bias") if f"{n}.{kind}" not in stem
        }
        expected |= {f"stem.{name}": torch.Size(shape) for name, shape in stem.items()}
    width = config.size.dims[-1]
    if any(name.startswith("head.norm.") for name in weights.head):
        expected |= {f"head.norm.{kind}": torch.Size([width]) for kind in ("weight", "bias")}
    if any(name.startswith("head.fc.") for name in weights.head):
        classes = next(v.shape[0] for k, v in weights.head.items() if k.startswith("head.fc."))
        expected |= {"head.fc.weight": torch.Size([classes, width]), "head.fc.bias": torch.Size([classes])}

    problems = []
    for name in sorted(expected.keys() - weights.encoder.keys() - weights.head.keys()):
        problems.append(f"missing {recognised.source_name(name)}")
    for part in (weights.encoder, weights.head):
        for name, tensor in part.items():
            if name not in expected:
                problems.append(f"unknown {weights.source_names[name]}")
                continue
            part[name] = in_shape(tensor, expected[name])
            if part[name].shape != expected[name]:
                was = f"{weights.source_names[name]} is {list(tensor.shape)}"
                problems.append(f"{was}, expected {list(expected[name])}")
    return problems


def _not_finite(weights: Weights) -> list[str]:
    found = {**weights.encoder, **weights.head, **weights.decoder}
    return [
        name
        for name, tensor in found.items()
        if tensor.is_floating_point() and not tensor.is_meta and not bool(tensor.isfinite().all())
    ]

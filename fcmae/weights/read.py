"""Weights of any format, read strictly: whole, every shape checked, nothing dropped in silence."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fcmae.errors import UserError
from fcmae.models import ModelConfig, SparseConvNeXt
from fcmae.models.decoder import Decoder
from fcmae.models.outline import outlined
from fcmae.models.sizes import Size
from fcmae.weights.files import open_source
from fcmae.weights.guess import as_trained, guess_config, mask_ratio
from fcmae.weights.recognize import Recognized, recognize
from fcmae.weights.stated import stated_image_hw
from fcmae.weights.weights import DECODER, HEAD, Weights

logger = logging.getLogger(__name__)

SHOWN = 8  # problems that an error names


def read_weights(
    ckpt: str | Path | Mapping[str, Any], allow_pickle: bool = False, use_ema: bool = True, logs: bool = True
) -> Weights:
    """Recognize the format, and bring the weights to timm's names and dense shapes.

    Args:
        ckpt: as of :func:`fcmae.convert_to_dense`.
        allow_pickle: unpickle anything, which runs code contained in the file.
        use_ema: of averaged and plain weights, take the averaged ones; False: the plain ones.
        logs: log the format, and what has no place.

    Raises:
        UserError: no ConvNeXt in it, or keys that are missing, unknown, twice there, of a wrong shape, or not finite.
    """
    source = open_source(ckpt, allow_pickle, use_ema)
    recognized = recognize(source.tensors, source.origin, use_ema)
    weights = Weights(source.origin, recognized.format.name, ModelConfig(), left=source.left + recognized.left)
    problems = []
    for ours, original, tensor in recognized.found:
        if ours is None:
            problems.append(f"unknown {original}")
        elif ours in weights.source_names:
            problems.append(f"{original} duplicates {weights.source_names[ours]}")
        else:
            weights.source_names[ours] = original
            part = weights.head if ours.startswith(HEAD) else weights.decoder
            (part if ours.startswith((HEAD, DECODER)) else weights.encoder)[ours] = tensor
    weights.config = source.config or _of_stated_size(
        guess_config(weights.encoder, recognized, source.origin), source.origin
    )
    weights.may_be_published = recognized.format.published and source.config is None
    if weights.decoder and source.config is None:
        depth, dim = _decoder_size(weights)
        trained = as_trained(source.args, weights.config.patch_size)
        weights.config = replace(weights.config, decoder_depth=depth, decoder_dim=dim, **trained)
        weights.mask_ratio = mask_ratio(source.args)
    problems += _problems(weights, recognized)
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise UserError(
            f"{weights.origin} does not hold one whole {weights.config.name} ({weights.format}): "
            f"{'; '.join(problems[:SHOWN])}{more}"
        )
    if logs:
        _log(weights)
    return weights


def _of_stated_size(config: ModelConfig, origin: str) -> ModelConfig:
    """For images of the size that is stated beside the weights, if it is one that the network takes."""
    size = stated_image_hw(Path(origin))
    if size is None or any(side % config.patch_size for side in size):
        return config
    return replace(config, img_size=size[0] if size[0] == size[1] else size)


def _log(weights: Weights) -> None:
    """The format, what has no place anywhere, and the license that published weights have."""
    logger.info("%s: %s, format %s", weights.origin, weights.config.name, weights.format)
    if weights.left:
        logger.info("%s: no place for %s", weights.origin, abridged(weights.left))
    if weights.config.with_grn and weights.may_be_published:
        logger.warning("%s: if these are the published weights of ConvNeXt V2, they are CC BY-NC 4.0", weights.origin)


def abridged(names: list[str]) -> str:
    """Names grouped by their first component, with the number of tensors in each group."""
    groups = Counter(name.split(".")[0] + (".…" if "." in name else "") for name in names)
    return ", ".join(f"{group} ({count} tensors)" if group.endswith("…") else group for group, count in groups.items())


def _problems(weights: Weights, recognized: Recognized) -> list[str]:
    """Bring every tensor to its dense shape; returns what is missing, unknown, or of another shape or dtype."""
    expected = _expected_shapes(weights)
    parts = (weights.encoder, weights.head, weights.decoder)
    given = set().union(*parts)
    problems = [f"missing {recognized.source_name(n)} {list(expected[n])}" for n in sorted(expected.keys() - given)]
    for part in parts:
        for name, tensor in part.items():
            source_name = weights.source_names[name]
            if name not in expected:
                problems.append(f"unknown {source_name} {list(tensor.shape)}")
                continue
            part[name] = in_shape(tensor, expected[name])
            if part[name].shape != expected[name]:
                problems.append(f"{source_name} is {list(tensor.shape)}, expected {list(expected[name])}")
            elif not tensor.is_floating_point():
                problems.append(f"{source_name} has dtype {tensor.dtype}, expected floating-point numbers")
            elif not tensor.is_meta and not _is_finite(tensor):
                problems.append(f"{source_name} is not finite ({_what_is_not(tensor)})")
    return problems


def in_shape(tensor: Tensor, shape: torch.Size) -> Tensor:
    """The tensor in this shape, if the two differ only by axes of length 1 at either end; otherwise as it is."""
    given, wanted = list(tensor.shape), list(shape)
    longer, shorter = (given, wanted) if len(given) > len(wanted) else (wanted, given)
    more = len(longer) - len(shorter)
    fits = any([1] * before + shorter + [1] * (more - before) == longer for before in range(more + 1))
    return tensor.reshape(shape) if fits else tensor


def _is_finite(tensor: Tensor) -> bool:
    """Checks minimum and maximum only: both are NaN if any value is. Faster than ``isfinite`` on every value."""
    values = tensor if tensor.element_size() > 1 else tensor.float()  # 8-bit floats have no minimum
    return values.numel() == 0 or all(bool(extreme.isfinite()) for extreme in values.aminmax())


def _what_is_not(tensor: Tensor) -> str:
    """How many of its values are NaN or infinite."""
    counts = {"NaN": int(tensor.float().isnan().sum()), "infinite": int(tensor.float().isinf().sum())}
    return " and ".join(f"{count} {what}" for what, count in counts.items() if count) + f" of {tensor.numel()} values"


def _expected_shapes(weights: Weights) -> dict[str, torch.Size]:
    """Shapes of the whole encoder, and of the head and the decoder if the weights hold any part of them."""
    config = weights.config
    expected = dict(_encoder_shapes(config, config.size))
    if weights.has_mmearth_stem:
        dim, side = config.size.dims[0], config.stride
        vectors = (f"{n}.{kind}" for n in (0, 1, 3, 4) for kind in ("weight", "bias"))
        stem: dict[str, tuple[int, ...]] = dict.fromkeys(vectors, (dim,))
        stem |= {"0.weight": (dim, config.in_chans, 3, 3), "3.weight": (dim, 1, side, side)}
        expected |= {f"stem.{name}": torch.Size(shape) for name, shape in stem.items()}
    width = config.size.dims[-1]
    if weights.head:  # without its norm, a classifier would give other results
        expected |= dict.fromkeys(("head.norm.weight", "head.norm.bias"), torch.Size([width]))
    if any(name.startswith("head.fc.") for name in weights.head):
        classes = _num_classes(weights.head)
        expected |= {"head.fc.weight": torch.Size([classes, width]), "head.fc.bias": torch.Size([classes])}
    if weights.decoder:
        expected |= {f"{DECODER}{name}": shape for name, shape in _decoder_shapes(weights, width).items()}
    return expected


@lru_cache(maxsize=16)
def _encoder_shapes(config: ModelConfig, _size: Size) -> dict[str, torch.Size]:
    """Not to be changed: one command reads the same kind of weights several times."""
    with outlined():
        return {name: tensor.shape for name, tensor in SparseConvNeXt(config).state_dict().items()}


def _num_classes(head: dict[str, Tensor]) -> int:
    """From the classifier's bias or, without one, its weight."""
    if "head.fc.bias" in head:
        return head["head.fc.bias"].numel()
    weight = head.get("head.fc.weight")
    return 0 if weight is None or weight.ndim == 0 else len(weight)


def _decoder_size(weights: Weights) -> tuple[int, int]:
    """Blocks of the decoder, and the width that most of its vectors have."""
    blocks: Counter[str] = Counter(name.split(".")[2] for name in weights.decoder if name.startswith("decoder.blocks."))
    dims = Counter(
        tensor.numel()
        for name, tensor in weights.decoder.items()
        if name.endswith((".mask_token", ".proj.bias", ".conv_dw.bias", ".norm.weight", ".norm.bias", ".fc2.bias"))
    )
    dim = dims.most_common(1)[0][0] if dims else weights.config.decoder_dim
    depth = sum(count > 1 for count in blocks.values())  # a single tensor is a stray key, not a block
    return depth, max(1, dim)


def _decoder_shapes(weights: Weights, in_dim: int) -> dict[str, torch.Size]:
    depth, dim = _decoder_size(weights)
    with outlined():
        decoder = Decoder(in_dim, dim, depth, weights.config.patch_size**2 * weights.config.in_chans)
        return {name: tensor.shape for name, tensor in decoder.state_dict().items()}

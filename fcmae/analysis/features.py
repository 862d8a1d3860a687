"""One vector for each image: the last stage's features, averaged over the image.

The norm that timm's classifier puts between the two is left out: a pretrained encoder has none, and a fresh one's would
be another network's. So every network is asked in the same way.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fcmae.analysis.labelled import Batches
from fcmae.checkpoint import MODEL, read_model, resolve_checkpoint
from fcmae.crop_batches import normalise
from fcmae.errors import UserError
from fcmae.models import ModelConfig, SparseConvNeXt
from fcmae.weights.convert import whole_encoder
from fcmae.weights.load import normalisation

logger = logging.getLogger(__name__)

LAYER_SCALE = 1e-6  # any number: the checkpoint's own takes its place


class Features(NamedTuple):
    """Of one part of a labelled set, on the CPU."""

    x: Tensor
    """float32 [N, D]."""
    labels: Tensor
    """int64 [N]."""


@dataclass(frozen=True)
class Embedder:
    """What turns images into vectors, and what it takes."""

    name: str
    embed: Callable[[Tensor], Tensor]
    """[B, C, H, W], normalised → [B, D]."""
    in_chans: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_hw: tuple[int, int] | None = None
    """Of the images that it was trained on, if it says."""
    fresh: Callable[[], "Embedder"] | None = None
    """The same with random weights, drawn from torch's generator."""

    def features(self, batches: Batches, image_hw: tuple[int, int], batch_size: int, device: torch.device) -> Features:
        """The vectors of all images that can be read, and their classes.

        Raises:
            UserError: images of a size that the network cannot take, or a vector that is not finite.
        """
        vectors, labels = [], []
        for images, of_them in batches(image_hw, self.in_chans, batch_size):
            try:
                with torch.no_grad():
                    vector = self.embed(normalise(images.to(device), self.mean, self.std))
            except (RuntimeError, AssertionError) as error:  # too small, not the one size it takes, out of memory
                raise UserError(
                    f"{self.name} cannot take {len(images)} images of {image_hw[0]}×{image_hw[1]} pixels: "
                    f"{str(error).strip().splitlines()[0]}; try another --img_size or --batch_size"
                ) from error
            vectors.append(vector.float().cpu())
            labels.append(of_them)
        found = Features(torch.cat(vectors), torch.cat(labels))
        if not found.x.isfinite().all():
            raise UserError(f"{self.name} gives features that are not finite; its weights are damaged")
        return found


def pixels(in_chans: int, side: int = 16) -> Embedder:
    """Raw pixels, averaged down to ``side`` × ``side``: what can be had without any network."""

    def embed(images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(images, side).flatten(1)

    return Embedder(f"raw pixels, {side}×{side}", embed, in_chans, (0.0,) * in_chans, (1.0,) * in_chans)


def embedder(name: str, device: torch.device, pretrained: bool = False) -> Embedder:
    """The network that a path or a name means, on the device.

    Args:
        name: a run folder, checkpoint folder or weights file; or the name of a timm network.
        device: where it is to run.
        pretrained: give a timm network the weights that timm has for it (downloads them) instead of random ones.

    Raises:
        UserError: neither, or weights that cannot be had.
    """
    if Path(name).exists():
        return _of_checkpoint(name, device)
    if not timm.is_model(name):
        raise UserError(f"{name} is neither a run, a checkpoint or a weights file, nor the name of a timm network")
    return _of_timm(name, device, pretrained)


def _of_checkpoint(ckpt: str, device: torch.device) -> Embedder:
    state, config = whole_encoder(ckpt)
    mean, std = normalisation(ckpt, config.in_chans)

    def with_weights(title: str, weights: dict[str, Tensor]) -> Embedder:
        network = dense_network(weights, config).to(device).eval()
        return Embedder(title, partial(pool, network), config.in_chans, mean, std, _image_hw(ckpt))

    def fresh() -> Embedder:
        return with_weights(f"{_described(config)}, random", SparseConvNeXt(config).state_dict())

    return replace(with_weights(ckpt, state), fresh=fresh)


def dense_network(state: dict[str, Tensor], config: ModelConfig) -> nn.Module:
    """A timm network without classifier that computes what the encoder of this configuration does on whole images."""
    network = timm.create_model(
        config.name,
        num_classes=0,
        in_chans=config.in_chans,
        use_grn=config.with_grn,
        ls_init_value=LAYER_SCALE if config.with_layer_scale else None,
    )
    side = config.stem_stride
    if side != network.stem[0].kernel_size[0]:  # timm's own option for it would halve the first stage too
        network.stem[0] = nn.Conv2d(config.in_chans, config.size.dims[0], side, side)
    loaded = network.load_state_dict(state, strict=False)
    strangers = [*loaded.unexpected_keys, *(key for key in loaded.missing_keys if not key.startswith("head."))]
    if strangers:
        raise UserError(f"timm's {config.name} has no place for, or lacks: {', '.join(strangers[:5])}")
    return network


def _of_timm(name: str, device: torch.device, pretrained: bool) -> Embedder:
    try:
        network = timm.create_model(name, pretrained=pretrained, num_classes=0)
    except Exception as error:  # whatever the download, or the reading of what came, runs into
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"timm cannot give {name}{' with weights' if pretrained else ''}: {reason}") from error
    trained = network.pretrained_cfg
    chans, height, width = trained["input_size"]
    return Embedder(
        name if pretrained else f"{name}, random",
        partial(pool, network.to(device).eval()),
        chans,
        tuple(trained["mean"]),
        tuple(trained["std"]),
        (height, width) if trained.get("fixed_input_size") else None,
        (lambda: _of_timm(name, device, pretrained=False)) if pretrained else None,
    )


def pool(network: Any, images: Tensor) -> Tensor:
    """The mean of the last feature map, [B, D]; of networks that have no [B, C, h, w], what timm's own head pools."""
    x = network.forward_features(images)
    if x.ndim == 4 and x.shape[1] == network.num_features:
        return x.mean((2, 3))
    return network.forward_head(x, pre_logits=True)


def _image_hw(ckpt: str) -> tuple[int, int] | None:
    """Size of the images that a run of this toolkit was trained on; None for weights from elsewhere."""
    path = Path(ckpt)
    if path.is_file() and path.suffix != ".safetensors" and path.name != "last":
        return None
    _, plain = read_model(path if path.suffix == ".safetensors" else resolve_checkpoint(path) / MODEL)
    if plain is None:
        return None
    size = plain["img_size"]
    return (size, size) if isinstance(size, int) else tuple(size)


def _described(config: ModelConfig) -> str:
    """Its name, and what is not as usual."""
    usual = ModelConfig(config.name)
    said = [config.name]
    if config.stem_stride != usual.stem_stride:
        said.append(f"stem {config.stem_stride}")
    if config.in_chans != usual.in_chans:
        said.append(f"{config.in_chans} channels")
    if config.with_grn != usual.with_grn:
        said.append("with GRN" if config.with_grn else "without GRN")
    if config.with_layer_scale != usual.with_layer_scale:
        said.append("with LayerScale" if config.with_layer_scale else "without LayerScale")
    return ", ".join(said)

"""One feature vector per image: the last stage's features, averaged over the positions.

The norm before timm's classifier is left out. A pretrained encoder has none, and a freshly initialized norm would
change the network. All networks are thus treated alike.
"""

import copy
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from timm.layers.grn import GlobalResponseNorm
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn
from torch.nn import functional as F

from fcmae.analysis.names import Named
from fcmae.analysis.subjects import DEFAULTS, LoadOptions, load_subject, refusals_named, seeded
from fcmae.data.labeled import Batches
from fcmae.data.normalizer import Normalizer
from fcmae.data.pixel_reading import PixelReading
from fcmae.errors import UserError
from fcmae.models.layers import init_weights

LAYER_SCALE = 1e-6  # initial value, as in the paper


class LabeledFeatures(NamedTuple):
    """Features and labels of one split, on the CPU."""

    x: Tensor
    """float32 [N, D]."""
    labels: Tensor
    """int64 [N]."""


@dataclass(frozen=True)
class Embedder:
    """A feature extractor and its input format."""

    name: str
    embed: Callable[[Tensor], Tensor]
    """[B, C, H, W], normalized → [B, D]."""
    reading: PixelReading
    normalize: Normalizer
    image_hw: tuple[int, int] | None = None
    """Its usual image size, if it has one."""
    takes_no_other: bool = False
    """Whether any other image size is an error, as for most vision transformers."""
    architecture: Hashable = None
    """Networks of equal architecture get the same random weights for the same seed."""
    fresh: Callable[[], "Embedder"] | None = None
    """Builds the same network with random weights; None if the weights are random already."""

    @property
    def in_chans(self) -> int:
        """Channels of its images."""
        return self.reading.in_chans

    def features(
        self, batches: Batches, image_hw: tuple[int, int], batch_size: int, device: torch.device
    ) -> LabeledFeatures:
        """Feature vectors and labels of all readable images.

        Raises:
            UserError: an image size that the network does not support, or a feature vector that is not finite.
        """
        return features_of_each([self], batches, image_hw, batch_size, device)[0]

    def vectors(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] in 0 … 1, on the network's device → float32 [B, D] on the CPU; raises as above."""
        height, width = images.shape[2:]
        with refusals_named(self.name, f"{len(images)} images", (height, width)), torch.no_grad():
            found = self.embed(self.normalize(images)).float().cpu()
        if not found.isfinite().all():
            raise UserError(f"{self.name} gives features that are not finite; its weights are damaged")
        return found


def features_of_each(
    embedders: Sequence[Embedder], batches: Batches, image_hw: tuple[int, int], batch_size: int, device: torch.device
) -> list[LabeledFeatures]:
    """Features of several networks whose images are read alike, in one pass over the images.

    Raises:
        UserError: as for :meth:`Embedder.features`.
    """
    (reading,) = {one.reading for one in embedders}
    vectors: list[list[Tensor]] = [[] for _ in embedders]
    labels = []
    for images, of_them in batches(image_hw, reading, batch_size):
        on_device = images.to(device)
        for one, so_far in zip(embedders, vectors, strict=True):
            so_far.append(one.vectors(on_device))
        labels.append(of_them)
    return [LabeledFeatures(torch.cat(so_far), torch.cat(labels)) for so_far in vectors]


def raw_pixels(given: PixelReading | int, side: int = 16) -> Embedder:
    """Raw pixels, average-pooled to ``side`` × ``side``: the baseline without a network."""

    def embed(images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(images, side).flatten(1)

    reading = PixelReading.of(given)
    as_they_are = Normalizer((0.0,) * reading.in_chans, (1.0,) * reading.in_chans)
    return Embedder(f"raw pixels, {side}×{side}", embed, reading, as_they_are)


def embedder(named: Named, device: torch.device, options: LoadOptions = DEFAULTS) -> Embedder:
    """The dense network given by a path or a timm name, on the device.

    Raises:
        UserError: weights that cannot be read or downloaded.
    """
    subject = load_subject(named, options, device)
    config: Any = subject.model.pretrained_cfg
    fixed = bool(config.get("fixed_input_size"))
    architecture = tuple((name, tuple(tensor.shape)) for name, tensor in subject.model.named_parameters())
    random_name = f"{config.get('architecture', named.label)}, random weights"

    def made(name: str, network: nn.Module, fresh: Callable[[], Embedder] | None = None) -> Embedder:
        embed = partial(pool, network.eval())
        takes = (subject.reading, subject.normalize, subject.image_hw, fixed)
        return Embedder(name, embed, *takes, architecture, fresh)

    def fresh() -> Embedder:
        if named.is_path:
            return made(random_name, fresh_weights(subject.model, options.seed))
        return made(random_name, load_subject(named, replace(options, pretrained=False), device).model)

    return made(random_name, subject.model) if subject.has_random_weights else made(named.label, subject.model, fresh)


def fresh_weights(network: nn.Module, seed: int) -> nn.Module:
    """A copy of a timm ConvNeXt with newly initialized weights, the same for a seed on every device.

    Raises:
        UserError: a layer whose initialization is not known.
    """
    device = next(network.parameters()).device
    network = copy.deepcopy(network).cpu()
    with seeded(seed):
        known = _initialized(network)
    if left := [name for name, parameter in network.named_parameters() if parameter not in known]:
        raise UserError(
            f"no random baseline: the initialization of {', '.join(left[:3])} is not known; only ConvNeXt is supported"
        )
    return network.to(device)


def _initialized(network: nn.Module) -> set[nn.Parameter]:
    """Initialize the layers whose initialization is known; returns their parameters."""
    known: set[nn.Parameter] = set()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            init_weights(module)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()
        elif isinstance(module, GlobalResponseNorm):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, ConvNeXtBlock) and module.gamma is not None:
            nn.init.constant_(module.gamma, LAYER_SCALE)
        else:
            continue
        known.update(module.parameters(recurse=False))
    return known


def pool(network: Any, images: Tensor) -> Tensor:
    """Mean of the last feature map, [B, D]; for networks without a [B, C, h, w] map, the pooling of timm's own head."""
    x = network.forward_features(images)
    if x.ndim == 4 and x.shape[1] == network.num_features:
        return x.mean((2, 3))
    return network.forward_head(x, pre_logits=True)

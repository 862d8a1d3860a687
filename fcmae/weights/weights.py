"""Weights as every format is read: the encoder under timm's names in dense shapes, and what comes with it."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fcmae.models import ModelConfig

HEAD, DECODER = "head.", "decoder."


@dataclass
class Weights:
    """A checkpoint's weights under one set of names, whatever its format."""

    origin: str
    """The file, or "the state dict"; messages begin with it."""
    format: str
    """Name of the format that was recognized."""
    config: ModelConfig
    """The network that the weights belong to."""
    encoder: dict[str, Tensor] = field(default_factory=dict)
    head: dict[str, Tensor] = field(default_factory=dict)
    """``head.norm`` and ``head.fc``, if there are any."""
    decoder: dict[str, Tensor] = field(default_factory=dict)
    """The decoder of an FCMAE under our names, ``decoder.…``."""
    source_names: dict[str, str] = field(default_factory=dict)
    """Our name → the source's."""
    left: list[str] = field(default_factory=list)
    """Names of the source that have no place in any network."""
    may_be_published: bool = False
    """Whether these may be weights that the authors of ConvNeXt V2 published, under CC BY-NC 4.0."""
    mask_ratio: float | None = None
    """The share of patches that were masked in training, if an official training checkpoint says."""

    stated: dict[str, Any] = field(default_factory=dict)
    """What comes with weights that are no files, by the names of ``--data``: mean, std, crop_pct."""

    @property
    def is_random(self) -> bool:
        """Whether they were made here rather than read."""
        return not self.source_names

    @property
    def has_mmearth_stem(self) -> bool:
        """A 3×3 convolution, then a strided depthwise one, each with a norm. timm has the layers but not this stem."""
        return "stem.3.weight" in self.encoder

    @property
    def num_classes(self) -> int:
        """Outputs of the classifier; 0 if there is none."""
        classifier = self.head.get("head.fc.weight")
        return 0 if classifier is None else len(classifier)

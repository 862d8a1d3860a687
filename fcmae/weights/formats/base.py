"""What a format of weights is: an object with the same few functions for each; every other module here defines one."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fcmae.data.normalizer import Pixels
from fcmae.weights.weights import Weights

Networks = dict[str, set[str]]
"""prefix → the names after it that identify a network of the format."""
Named = tuple[str, Tensor]
"""timm's name of a parameter, and the tensor with a dense layer's axes."""

CONFIG_JSON = "config.json"
EXPORTED_KEY = "fcmae"
"""In config.json: how pixels are read, where the format itself has no place for it (``Pixels.exported``)."""

SEVERAL = "multi_label_classification"
"""In config.json, ``problem_type``: an image may have several labels."""

SIBLINGS = {"weight": "bias", "bias": "weight", "gamma": "beta", "beta": "gamma"}


def nothing(name: str, tensor: Tensor) -> Named | None:
    """For formats that hold nothing beside the network."""
    return None


def sibling(name: str, tensor: Tensor) -> str:
    """The name of a layer's other parameter: weight and bias, gamma and beta."""
    layer, _, kind = name.rpartition(".")
    return f"{layer}.{SIBLINGS[kind]}"


@dataclass(frozen=True)
class Stated:
    """What is stated beside weights: the classes of a classifier, and the crop that validation takes."""

    classes: tuple[str, ...] | None = None
    """Names of its outputs; None: unknown."""
    is_multi_label: bool = False
    crop_pct: float | None = None
    """Share of the largest center crop that it was validated on."""
    file: Path | None = None
    """That names the classes."""

    def names(self, outputs: int) -> tuple[str, ...] | None:
        """The classes, if there is one for each of so many outputs."""
        return self.classes if outputs and self.classes is not None and len(self.classes) == outputs else None


@dataclass(frozen=True)
class Target:
    """How a format is written."""

    layout: Callable[[str, Tensor], Tensor] = lambda name, tensor: tensor
    """(timm's name, tensor as timm shapes it) → the tensor in the format's shape."""
    check: Callable[[Weights], None] = lambda weights: None
    """Raises UserError if the format's own code has no such network."""
    prefix: Callable[[Weights], str] = lambda weights: ""
    """What precedes the network's names."""
    final_norm: bool = False
    """The network always has a final norm; where weights lack it, it is written with weight 1 and bias 0."""
    entry: str | None = None
    """Pickled files hold the state dict under this name."""
    weights_file: str = "model.safetensors"
    """Name of the weights in a folder."""
    folder_files: Mapping[str, Callable[[Weights, Pixels, Stated], dict[str, Any]]] = field(default_factory=dict)
    """JSON files of a folder besides the weights → what they hold. May raise UserError."""
    module: str = ""
    """Python module that loads such a folder; none if empty."""
    usage: str = ""
    """How to load it, with FOLDER for its path."""
    classifier_usage: str = ""
    """The same with a classifier, where it is another."""

    def loaded_by(self, weights: Weights) -> str:
        """How to load these weights."""
        return self.classifier_usage if weights.num_classes and self.classifier_usage else self.usage


@dataclass(frozen=True)
class Format:
    """One format of weights. Names are the network's own, without a prefix such as ``model.`` or ``encoder.``."""

    name: str
    """What messages call it, and ``--format`` if it is written."""
    matches: Callable[[Sequence[str]], Networks]
    """The networks of this format in a state dict of these names (:func:`fcmae.weights.formats.names.networks`)."""
    to_timm: Callable[[str, Tensor], Named | None]
    """A parameter under timm's name with a dense layer's axes (axes of length 1 at either end do not matter); None if
    the network has no parameter of this name."""
    from_timm: Callable[[str], str | None]
    """What the format calls a parameter of timm's network, or of our decoder; None if it has no place for it."""
    beside: Callable[[str, Tensor], Named | None] = nothing
    """As ``to_timm``, for what lies outside the network: a decoder, or a classifier."""
    held_as: tuple[str, ...] = ()
    """Names of the network in the module that holds it and what lies beside it."""
    leftovers: tuple[str, ...] = ()
    """Beginnings of names that are known to have no place in any network."""
    sibling: Callable[[str, Tensor], str] = sibling
    """A parameter's name and tensor as found → the name of its layer's other parameter, for messages."""
    published: bool = False
    """The authors of ConvNeXt V2 published weights in this format, under CC BY-NC 4.0."""
    variant: Callable[[Weights], "Format | None"] = lambda weights: None
    """The format in which the same code names these weights, if it is another one, as for isotropic networks."""
    target: Target | None = None
    """How it is written; None: it is only read."""
    mean_std: Callable[[Path], tuple[Any, Any] | None] = lambda folder: None
    """The mean and standard deviation of the images that a folder of this format states."""
    image_hw: Callable[[Path], tuple[Any, Any] | None] = lambda folder: None
    """Height and width of the images that a folder of this format states."""
    value_range: Callable[[Path], tuple[float, float] | None] = lambda folder: None
    """The values of pixels that become 0 and 1, where a folder of this format states others than 0 and 255."""

    def holder(self, prefix: str) -> str:
        """The prefix of the module that holds a network of this prefix."""
        name = next((name for name in self.held_as if prefix == name or prefix.endswith(f".{name}")), "")
        return prefix.removesuffix(name)

    def is_beside(self, name: str) -> bool:
        """Whether the format's parameter of this name lies outside the network."""
        return self.beside(name, torch.empty(0)) is not None


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; empty if there is none that can be read."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

"""What is compared, on what, and for how long: one record for each data set."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from experiments.label_efficiency import sets


@dataclass(frozen=True)
class Network:
    """A way to the weights that fine-tuning starts from."""

    title: str
    pretrained: bool
    model: Mapping[str, Any] = field(default_factory=dict)
    """Laid over ``Plan.model``."""
    pretrain: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Groups of settings, laid over ``Plan.pretrain``."""
    length: float = 1.0
    """Epochs of pretraining, as a multiple of the plan's."""
    finetune: Mapping[str, Any] = field(default_factory=dict)
    """What fine-tuning lays over the model."""
    finetune_data: Mapping[str, Any] = field(default_factory=dict)
    """What fine-tuning lays over ``Plan.data``."""
    finetune_train: Mapping[str, Any] = field(default_factory=dict)
    """What fine-tuning lays over its settings of training."""
    weights_of: str | None = None
    """The network whose pretraining it shares; None: it has its own."""
    layer_decay: float | None = None
    """Of fine-tuning; None: ``DECAY``."""


NETWORKS = {
    "v2": Network("V2, pretrained", True),
    "scratch": Network("V2, from scratch", False),
    "v1": Network("V1 style (LayerScale, no GRN), pretrained", True, {"use_grn": False, "use_layer_scale": True}),
}
GRN = {
    "grn-dropped": Network("V2, pretrained; GRN dropped", True, finetune={"use_grn": False}, weights_of="v2"),
    "grn-new": Network("V1 style, pretrained; GRN new", True, finetune={"use_grn": True}, weights_of="v1"),
}
"""With v2 and v1 the paper's table 2f: GRN in pretraining, fine-tuning, both or neither."""
DECAYED = {"scratch-decay": Network("V2, from scratch, with layer decay", False, layer_decay=0.8)}
"""To see whether the decay is what pretrained networks win by."""
PRETRAIN_BATCH = 64
UNSET: dict[str, dict[str, Any]] = {"model": {"stem_stride": None}, "train": {"base_lr": None, "warmup_epochs": None}}
"""What plans leave unset in pretraining. Unless it is given, the recipe for small sets chooses, whose values come from
here."""


def _peak(rate: float) -> dict[str, dict[str, float]]:
    return {"train": {"base_lr": rate * 256 / PRETRAIN_BATCH}}


VARIATIONS = {
    "rate-low": Network("peak learning rate 5e-4", True, pretrain=_peak(5e-4)),
    "rate-high": Network("peak learning rate 5e-3", True, pretrain=_peak(5e-3)),
    "crops-small": Network("crops from 8% of the area", True, pretrain={"data": {"crop_scale": (0.08, 1.0)}}),
    "crops-large": Network("crops from 60% of the area", True, pretrain={"data": {"crop_scale": (0.6, 1.0)}}),
    "decoder-narrow": Network("decoder 128 wide", True, pretrain={"model": {"decoder_dim": 128}}),
    "decoder-wide": Network("decoder 512 wide", True, pretrain={"model": {"decoder_dim": 512}}),
    "mask-more": Network("75% masked", True, pretrain={"train": {"mask_ratio": 0.75}}),
    "stem-2": Network("stem of stride 2", True, model={"stem_stride": 2}),
    "short": Network("a third as long", True, length=1 / 3),
    "long": Network("three times as long", True, length=3.0),
}
"""One change each of V2's pretraining, to see what a recipe for small sets should depend on."""


def _crops(scale: tuple[float, float]) -> Network:
    title = f"crops from {scale[0]:.0%} of the area in fine-tuning"
    return Network(title, True, finetune_data={"crop_scale": scale}, weights_of="v2")


def _frozen(what: str, freeze: int | str) -> Network:
    return Network(f"{what} frozen in fine-tuning", True, finetune_train={"freeze": freeze}, weights_of="v2")


FINETUNING = {
    "finetune-crops-small": _crops((0.2, 1.0)),
    "finetune-crops-large": _crops((0.8, 1.0)),
    "freeze-2": _frozen("first two stages", 2),
    "freeze-head": _frozen("all but the classifier", "head"),
}
"""One change each of how V2's pretrained weights are fine-tuned."""
KNOWN = NETWORKS | DECAYED | GRN | VARIATIONS | FINETUNING
"""All that can be asked for, in the order of a table's rows."""
RATES = (3e-4, 1e-3, 3e-3, 6e-3)
"""Peak learning rates that are tried."""
RECIPE = "few_labels"
"""Of fine-tuning; what it leaves to be computed the plan gives."""
DECAY = {True: 0.8, False: 1.0}
"""Layer decay after pretraining, and from scratch, where ``DECAYED`` has another."""


@dataclass(frozen=True)
class Plan:
    """A data set, and the budget of every network on it."""

    make: Callable[[Path], Path]
    model: Mapping[str, Any]
    """Name, image size in fine-tuning, stem."""
    pretrain: Mapping[str, Mapping[str, Any]]
    """Groups of settings of pretraining; ``model`` is laid over ``Plan.model``."""
    data: Mapping[str, Any]
    """Crops in fine-tuning."""
    batch_size: int
    images_seen: int
    """Fine-tuning's budget: images in all its steps, within the bounds of ``epochs_within``."""
    epochs_within: tuple[int, int]
    shares: tuple[float, ...] = (0.01, 0.05, 0.1, 0.25, 1.0)

    def settings(self) -> dict[str, Any]:
        """All of it, as plain data, and what fine-tuning has of its recipe and of this file."""
        own = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("make", "shares")}
        recipe = yaml.safe_load((files("fcmae.configs") / f"{RECIPE}.yaml").read_text(encoding="utf-8"))
        return own | {"recipe": recipe, "layer_decay": {"pretrained": DECAY[True], "scratch": DECAY[False]}}

    def lasting(self, length: float) -> "Plan":
        """The plan with so many times its epochs of pretraining, at least one; a folder takes either, not both."""
        train = {**self.pretrain["train"], "epochs": max(1, round(length * self.pretrain["train"]["epochs"]))}
        return replace(self, pretrain={**self.pretrain, "train": train})

    def epochs(self, images: int) -> int:
        """Passes over so many labeled images."""
        least, most = self.epochs_within
        return max(least, min(most, round(self.images_seen / images)))


ATTO = {"name": "convnextv2_atto", "in_chans": 1}
PLANS = {
    "elpv": Plan(
        sets.elpv,
        model=ATTO | {"img_size": 128},
        pretrain={
            "model": {"decoder_dim": 256},
            "data": {
                "crop_scale": (0.3, 1.0),
                "vflip": 0.5,
                "rotate90": True,
                "mean": "auto",
                "std": "auto",
                "cache": True,
                "num_workers": 1,
            },
            "train": {"epochs": 120, "batch_size": PRETRAIN_BATCH},
        },
        data={"crop_scale": (0.5, 1.0), "vflip": 0.5, "rotate90": True},
        batch_size=32,
        images_seen=20_000,
        epochs_within=(20, 60),
    ),
    "fashion_mnist": Plan(
        sets.fashion_mnist,
        model=ATTO | {"img_size": 32, "stem_stride": 1},
        pretrain={
            "model": {"decoder_dim": 256},
            "data": {"crop_scale": (0.4, 1.0), "mean": "auto", "std": "auto"},
            "train": {"epochs": 3, "batch_size": PRETRAIN_BATCH},
        },
        data={"crop_scale": (0.6, 1.0)},
        batch_size=32,
        images_seen=30_000,
        epochs_within=(5, 30),
    ),
}

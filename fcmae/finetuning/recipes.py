"""Which shipped recipe suits a set of labeled images."""

import logging
import os
import re
from collections.abc import Container
from pathlib import Path
from typing import Any

import timm

from fcmae.errors import UserError
from fcmae.finetuning import few_labels
from fcmae.finetuning.config import SCRATCH, FinetuneConfig
from fcmae.finetuning.few_labels import FEW_LABELS, FEW_LABELS_LARGE
from fcmae.finetuning.labels import labeled_set
from fcmae.finetuning.network import DEFAULT
from fcmae.models.sizes import SIZES
from fcmae.training.batch import expected_batch
from fcmae.training.resume import RUNS, checkpoint_to_resume, recorded_settings

logger = logging.getLogger("fcmae")

FEW = 10_000
"""Images to train on from which the papers' recipes are taken."""
SUPERVISED, AFTER_SUPERVISED = "finetune_v1", "finetune_v1_22k_1k"
ISOTROPIC, SUPERVISED_ISOTROPIC = "convnext_isotropic_", "finetune_v1_isotropic"
SMALL = ("atto", "femto", "pico", "nano")
"""Sizes that ``FEW_LABELS`` is for."""
NEAREST = {"convnext_small": "base", "convnext_xlarge": "large", "convnext_isotropic_small": "tiny"}
"""V1's sizes that V2 lacks, and the V2 size whose recipe they take: the depth of small is base's."""
OF_SIZES = {
    SUPERVISED: {"small": "small", "base": "base", "large": "base", "xlarge": "base", "huge": "base"},
    SUPERVISED_ISOTROPIC: {"base": "base", "large": "large"},
    AFTER_SUPERVISED: {"large": "large", "xlarge": "xlarge"},
}
"""V1's recipes differ in the drop path of the sizes: those that have their own, of themselves or of another."""
V2_AFTER_SUPERVISED = "finetune_22k_1k"
OF_V2_SIZES = {"base": "base", "large": "base", "huge": "huge"}
"""Its recipes by size; that of nano is for tiny and all smaller ones, too."""
SUPERVISED_TAG = re.compile(r"(^|_)in\d+k(_|$)")
"""In tags of timm's weights that were trained on labels: fb_in1k, fb_in22k_ft_in1k, in12k; not clip_laion2b, dinov3."""


def recipe_for(config: FinetuneConfig) -> str:
    """Below ``FEW`` images to train on that of the size for few labels, else the papers' for the weights and the size,
    or from scratch their supervised training: layer decay would hold random layers back.

    Raises:
        UserError: labels or weights that cannot be read.
    """
    images = len(labeled_set(config.data.of_labels, config.seed).train)
    if images < FEW:
        name, _ = _network_of(config)
        chosen = FEW_LABELS if name.rpartition("_")[2] in SMALL else FEW_LABELS_LARGE
    elif config.weights == SCRATCH:
        chosen = v1_of_size(SUPERVISED, config.model.name or DEFAULT)
    else:
        chosen = _for_weights(config)
    logger.info("%s images to train on: --config %s", f"{images:,}", chosen)
    return chosen


def computed(config: FinetuneConfig, is_open: Container[str]) -> dict[str, Any]:
    """The settings that ``FEW_LABELS`` leaves open, by dotted name; a line says which.

    Args:
        config: as given. Without ``data.path`` nothing is computed. A run that is resumed keeps its own values,
            however many images there are now.
        is_open: dotted names that neither the user nor a file gives.

    Raises:
        UserError: labels that cannot be read, or a run folder that is taken.
    """
    if (resumed := _checkpoint_to_resume(config)) is not None:
        before = recorded_settings(resumed)
        return {name: before[name] for name in few_labels.NAMES if name in is_open and before.get(name) is not None}
    if config.data.path is None:
        return {}
    train, images = config.train, len(labeled_set(config.data.of_labels, config.seed).train)
    processes = max(1, int(os.environ.get("WORLD_SIZE") or "1"))
    given_epochs = None if "train.epochs" in is_open else train.epochs
    values = few_labels.values(images, expected_batch(train, processes), given_epochs)
    found = {name: value for name, value in values.items() if name in is_open}
    if found:
        flags = " ".join(f"--{name} {value:g}" for name, value in found.items())
        logger.info("%s images to train on: --config %s has %s", f"{images:,}", FEW_LABELS, flags)
    return found


def _checkpoint_to_resume(config: FinetuneConfig) -> Path | None:
    if config.output is None and config.resume in ("auto", "none"):
        return None  # a new run; torchrun starts one again with the same images
    return checkpoint_to_resume(config, RUNS if config.output is None else Path(config.output))


def of_size(name: str) -> str:
    """The paper's recipe of fine-tuning a network on ImageNet-1K after FCMAE; V1's networks take that of V2's size."""
    return f"finetune_{NEAREST.get(name, name.rpartition('_')[2])}"


def v1_of_size(recipe: str, name: str) -> str:
    """V1's recipe, ``SUPERVISED`` or ``AFTER_SUPERVISED``, with the drop path of a network's size."""
    if recipe == SUPERVISED and name.startswith(ISOTROPIC):
        recipe = SUPERVISED_ISOTROPIC
    size = OF_SIZES[recipe].get(name.rpartition("_")[2])
    return recipe if size is None else f"{recipe}_{size}"


def _for_weights(config: FinetuneConfig) -> str:
    """The recipe of the size; for weights with a classifier, that of fine-tuning after supervised training."""
    name, has_classifier = _network_of(config)
    if not has_classifier:
        return of_size(name)
    if name.startswith("convnextv2"):
        return f"{V2_AFTER_SUPERVISED}_{OF_V2_SIZES.get(name.rpartition('_')[2], 'nano')}"
    return v1_of_size(AFTER_SUPERVISED, name)


def _network_of(config: FinetuneConfig) -> tuple[str, bool]:
    """Its name, and whether the weights have a classifier. Weights that cannot be read: as if there were none."""
    given = config.weights
    if given is None or given == SCRATCH:
        return config.model.name or DEFAULT, False
    if given.partition(".")[0] in SIZES and not Path(given).exists():
        name, _, tag = given.partition(".")
        known = timm.get_pretrained_cfg(name)
        tag = tag or ("" if known is None else known.tag)  # as timm: without a tag, its default
        return name, SUPERVISED_TAG.search(tag) is not None
    from fcmae.weights.read import read_weights

    try:
        weights = read_weights(given, logs=False)
    except UserError:  # said when it is read to be trained
        return DEFAULT, False
    return weights.config.name, weights.num_classes > 0

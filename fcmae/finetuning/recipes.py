"""Which shipped recipe suits a set of labeled images."""

import logging
from pathlib import Path

from fcmae.errors import UserError
from fcmae.finetuning.config import SCRATCH, FinetuneConfig
from fcmae.finetuning.labels import labeled_set
from fcmae.finetuning.network import DEFAULT
from fcmae.models.sizes import SIZES

logger = logging.getLogger("fcmae")

FEW = 10_000
"""Images to train on from which the papers' recipes are taken."""
FEW_LABELS, SUPERVISED = "few_labels", "finetune_v1"


def recipe_for(config: FinetuneConfig) -> str:
    """``few_labels`` below ``FEW`` images to train on, else the papers' for the size of the network, or from scratch
    their supervised training: layer decay would hold random layers back.

    Raises:
        UserError: labels or weights that cannot be read.
    """
    images = len(labeled_set(config.data, config.seed).train)
    if images < FEW:
        chosen = FEW_LABELS
    elif config.weights == SCRATCH:
        chosen = SUPERVISED
    else:
        chosen = of_size(_network_name(config))
    logger.info("%s images to train on: --config %s", f"{images:,}", chosen)
    return chosen


def of_size(name: str) -> str:
    """The papers' recipe of fine-tuning on ImageNet-1K for a network, or V1's of training."""
    version, _, size = name.partition("_")
    return f"finetune_{size}" if version == "convnextv2" else SUPERVISED


def _network_name(config: FinetuneConfig) -> str:
    given = config.weights
    if given is None:
        return config.model.name or DEFAULT
    if given.partition(".")[0] in SIZES and not Path(given).exists():
        return given.partition(".")[0]
    from fcmae.weights.read import read_weights

    try:
        return read_weights(given).config.name
    except UserError:  # said when it is read to be trained
        return DEFAULT

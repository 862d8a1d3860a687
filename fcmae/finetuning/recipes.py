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
FEW_LABELS, SUPERVISED, AFTER_SUPERVISED = "few_labels", "finetune_v1", "finetune_v1_22k_1k"
NEAREST = {"convnext_small": "base", "convnext_xlarge": "large", "convnext_isotropic_small": "tiny"}
"""V1's sizes that V2 lacks, and the V2 size whose recipe they take: the depth of small is base's."""


def recipe_for(config: FinetuneConfig) -> str:
    """``few_labels`` below ``FEW`` images to train on, else the papers' for the weights and the size of the network,
    or from scratch their supervised training: layer decay would hold random layers back.

    Raises:
        UserError: labels or weights that cannot be read.
    """
    images = len(labeled_set(config.data, config.seed).train)
    if images < FEW:
        chosen = FEW_LABELS
    elif config.weights == SCRATCH:
        chosen = SUPERVISED
    else:
        chosen = _for_weights(config)
    logger.info("%s images to train on: --config %s", f"{images:,}", chosen)
    return chosen


def of_size(name: str) -> str:
    """The paper's recipe of fine-tuning a network on ImageNet-1K after FCMAE; V1's networks take that of V2's size."""
    return f"finetune_{NEAREST.get(name, name.rpartition('_')[2])}"


def _for_weights(config: FinetuneConfig) -> str:
    """The recipe of the size; for weights of V1 with a classifier, V1's for fine-tuning after supervised training."""
    given = config.weights
    if given is None:
        return of_size(config.model.name or DEFAULT)
    if given.partition(".")[0] in SIZES and not Path(given).exists():
        name, has_classifier = given.partition(".")[0], True  # timm's weights of V1 are all supervised
    else:
        from fcmae.weights.read import read_weights

        try:
            weights = read_weights(given, logs=False)
        except UserError:  # said when it is read to be trained
            return of_size(DEFAULT)
        name, has_classifier = weights.config.name, weights.num_classes > 0
    return AFTER_SUPERVISED if has_classifier and not name.startswith("convnextv2") else of_size(name)

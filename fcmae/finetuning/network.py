"""The network to fine-tune: a timm ConvNeXt with pretrained or random weights, a new classifier, and frozen stages."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import DropPath
from torch import nn

from fcmae.data.normalizer import Normalizer
from fcmae.errors import UserError, brief
from fcmae.finetuning.config import SCRATCH, STAGES, FinetuneConfig, FinetuneModelConfig, FinetuneTrainConfig
from fcmae.models import ModelConfig, SparseConvNeXt
from fcmae.models.block import Block
from fcmae.models.classifier import Classifier
from fcmae.models.sizes import SIZES
from fcmae.sparse.backends.registry import BackendError, resolve_backend
from fcmae.weights.dense import dense_network
from fcmae.weights.read import read_weights
from fcmae.weights.stated import stated_beside
from fcmae.weights.weights import Weights
from fcmae.wording import counted

logger = logging.getLogger("fcmae")

DEFAULT = "convnextv2_atto"
DENSE = "dense"
"""In place of a backend: timm's network."""
PLAIN = "torch"
"""The backend that is no faster than timm's network."""
ACCEPTED = "give a run, a file or folder of weights, a ConvNeXt of timm, or the word scratch"


def starting_weights(config: FinetuneConfig) -> Weights:
    """What the run starts from: read from a file, of timm, or random.

    Raises:
        UserError: no such weights, or not those of a ConvNeXt.
    """
    given, model = config.weights, config.model
    if given is None:
        raise UserError(f"WEIGHTS is missing: {ACCEPTED}")
    if given == SCRATCH:
        return random_weights(model, config.seed)
    if Path(given).exists():
        weights = read_weights(given)
    elif given.partition(".")[0] in SIZES:
        weights = _of_timm(given)
    else:
        raise UserError(f"WEIGHTS {given} does not exist, and is not a ConvNeXt of timm; {ACCEPTED}")
    for name, of_weights in (("name", weights.config.name), ("stem_stride", weights.config.stride)):
        if getattr(model, name) not in (None, of_weights):
            raise UserError(
                f"--model.{name} is {getattr(model, name)}, but {given} has {of_weights}; leave it out, or fine-tune "
                f"from {SCRATCH}"
            )
    return weights


def random_weights(model: FinetuneModelConfig, seed: int) -> Weights:
    """The initial weights of pretraining, which are the papers'."""
    chosen: dict[str, Any] = {name: getattr(model, name) for name in ("name", "in_chans", "stem_stride", "use_grn")}
    given = {"name": DEFAULT} | {name: value for name, value in chosen.items() if value is not None}
    try:
        config = ModelConfig(**given, img_size=224, backend="torch")
    except ValueError as error:
        raise UserError(f"--model.{error}") from None
    if not config.size.is_isotropic:
        config = replace(config, img_size=56 * config.stride)
    torch.manual_seed(seed)
    return Weights(SCRATCH, SCRATCH, config, encoder=SparseConvNeXt(config).state_dict())


def _of_timm(name: str) -> Weights:
    """timm's own, with the size, mean, standard deviation and crop that its configuration states for this tag."""
    try:
        model: Any = timm.create_model(name, pretrained=True)
    except Exception as error:  # unknown tag, no pretrained weights, no network
        raise UserError(f"WEIGHTS {name}: timm cannot load it: {brief(error)}") from None
    weights = read_weights(model.state_dict())
    weights.origin = name
    stated, size = model.pretrained_cfg, tuple(model.pretrained_cfg["input_size"][1:])
    if not any(side % weights.config.patch_size for side in size):
        weights.config = replace(weights.config, img_size=size)
    weights.stated = {"mean": tuple(stated["mean"]), "std": tuple(stated["std"]), "crop_pct": float(stated["crop_pct"])}
    return weights


def described(weights: Weights, model: FinetuneModelConfig) -> ModelConfig:
    """The network of a run, without a decoder's meaning.

    Raises:
        UserError: an image size that is not a multiple of the network's total stride.
    """
    changes: dict[str, Any] = {
        "img_size": weights.config.img_size if model.img_size is None else model.img_size,
        "in_chans": weights.config.in_chans if model.in_chans is None else model.in_chans,
        "drop_path_rate": model.drop_path_rate,
        "checkpoint_stages": (),
        "backend": "auto",
    }
    if model.use_grn is not None:
        changes["use_grn"] = model.use_grn
    try:
        return replace(weights.config, **changes)
    except ValueError as error:
        raise UserError(f"--model.{error}") from None


def build(
    weights: Weights, network: ModelConfig, model: FinetuneModelConfig, classes: Sequence[str], pixels: Normalizer,
    seed: int, backend: str = DENSE,
) -> nn.Module:  # fmt: skip
    """The network with the weights, and with their classifier if it is for the same classes; otherwise with a new one.

    Args:
        weights: what it starts from.
        network: what it shall be, :func:`described`.
        model: settings of the run.
        classes: names of the outputs.
        pixels: the normalization of the images.
        seed: of the new classifier's weights.
        backend: of :func:`backend_for`.

    Raises:
        UserError: weights of another number of channels that cannot be adapted.
    """
    start = _with_grn(weights, network.with_grn)
    if start.num_classes:
        names = stated_beside(weights.origin).classes
        if start.num_classes != len(classes) or (names is not None and list(names) != list(classes)):
            what = (
                f"of {counted(start.num_classes, 'class', 'classes')}"
                if start.num_classes != len(classes)
                else "of other classes"
            )
            logger.warning(
                "%s: its classifier is %s, and the labeled images have %s: a new classifier is trained",
                weights.origin, what, counted(len(classes), "class", "classes"),
            )  # fmt: skip
            kept = {name: tensor for name, tensor in start.head.items() if not name.startswith("head.fc.")}
            start = replace(start, head=kept)
        elif names is None:
            logger.info(
                "%s: its classifier of %s without names is kept",
                weights.origin,
                counted(start.num_classes, "class", "classes"),
            )
    torch.manual_seed(seed)
    built: Any = dense_network(
        start, pixels, len(classes), in_chans=network.in_chans, drop_path_rate=network.drop_path_rate,
        head_init_scale=model.head_init_scale,
    )  # fmt: skip
    if backend == DENSE:
        built.set_grad_checkpointing(model.checkpoint_activations)
        return built
    stages = tuple(range(len(network.size.depths))) if model.checkpoint_activations else ()
    computed = Classifier(replace(network, backend=backend, checkpoint_stages=stages), built.head)  # type: ignore[arg-type]
    computed.load_state_dict(built.state_dict())
    return computed


def backend_for(
    model: FinetuneModelConfig, weights: Weights, train: FinetuneTrainConfig, device: torch.device, precision: str
) -> str:
    """``dense``, or the sparse backend that computes the network with every patch visible.

    Args:
        model: its ``backend`` is the wish.
        weights: what training starts from.
        train: its ``compile`` asks for the dense network.
        device: that training runs on.
        precision: ``fp32`` or ``bf16``.

    Raises:
        UserError: a backend that is not installed, or of other devices, or that has no kernels for the network.
    """
    if model.backend == DENSE:
        return DENSE
    wanted: str = model.backend
    if wanted == "auto":
        suits = device.type == "cpu" and precision == "fp32" and not train.compile and not weights.has_mmearth_stem
        wanted = resolve_backend("auto", device).name if suits else PLAIN
        if wanted == PLAIN:  # timm's network is as fast
            return DENSE
    if weights.has_mmearth_stem:
        raise UserError(f"--model.backend {wanted}: MMEarth's stem looks beyond a patch; take auto or {DENSE}")
    try:
        missing = resolve_backend(wanted, device).missing_on(device)
    except BackendError as error:
        raise UserError(f"--model.{error}") from None
    if missing:
        raise UserError(f"--model.backend {wanted} needs {missing}; take auto or {DENSE}")
    return wanted


def _with_grn(weights: Weights, with_grn: bool) -> Weights:
    """The weights with their GRN dropped, or with a new one, which changes nothing at first."""
    if weights.config.with_grn == with_grn:
        return weights
    config = replace(weights.config, use_grn=with_grn)
    encoder = {name: tensor for name, tensor in weights.encoder.items() if ".mlp.grn." not in name}
    if with_grn:
        for name, tensor in weights.encoder.items():
            if name.endswith(".mlp.fc1.bias"):
                for kind in ("weight", "bias"):
                    encoder[name.replace("fc1.bias", f"grn.{kind}")] = torch.zeros_like(tensor)
    logger.info("%s: its GRN is %s", weights.origin, "new" if with_grn else "dropped")
    return replace(weights, config=config, encoder=encoder)


def freeze(model: Any, stages: int) -> None:
    """Leave the stem and the first ``stages`` stages as they are, without drop path.

    0 trains everything, ``STAGES`` the head alone.

    Raises:
        UserError: more stages than the network has.
    """
    if not stages:
        return
    if 1 == len(model.stages) < stages < STAGES:
        raise UserError(f"--train.freeze {stages}: an isotropic network has one stage; give 0, 1 or head")
    for part in (model.stem, *model.stages[:stages]):
        part.requires_grad_(False)
        for module in part.modules():
            if isinstance(module, DropPath | Block):
                module.drop_prob = 0.0

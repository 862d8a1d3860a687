"""Which format a state dict is in, by its names alone, and our name for each of its parameters."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from fcmae.errors import UserError
from fcmae.weights.layouts import from_minkowski
from fcmae.weights.names import find_networks, from_timm, to_timm

WRAPPERS = ("module.", "_orig_mod.")  # DDP, torch.compile
DECODER, MINKOWSKI = "decoder.", "MinkowskiEngine's layout"
# The other parameter of a layer
SIBLINGS = {"weight": "bias", "bias": "weight", "kernel": "bias", "gamma": "beta", "beta": "gamma"}
# What a network is called in the module that holds it and its decoder or its classifier
HELD_AS = ("encoder.", "backbone.", "convnextv2.", "convnext.")
# Where a classifier lies that is not inside the network
CLASSIFIERS = {"transformers": "classifier.", "mmpretrain": "head.fc."}
# What else a format may hold, which has no place in another
LEFT = {
    "official": ("decoder_dict.", "pred_dict.", "layer_norm_tmp.", "loss_fn.", "mask_token", "proj."),  # MMEarth's
    "transformers": ("hidden_states_norms.",),  # a backbone's norms of its outputs
    "mmpretrain": ("norm0.", "norm1.", "norm2.", "data_preprocessor.", "neck."),
}
# MMEarth's names → the official ones; its downsample_layers begin after the stem
MMEARTH = {
    "stem_orig.": "downsample_layers.0.",
    "initial_conv.": "downsample_layers.0.",
    "stem.0.": "downsample_layers.0.3.",  # a GELU lies between
    "stem.1.": "downsample_layers.0.4.",
    "downsample_layers.0.": "downsample_layers.1.",
    "downsample_layers.1.": "downsample_layers.2.",
    "downsample_layers.2.": "downsample_layers.3.",
}


class Recognized(NamedTuple):
    """A network's parameters under our names."""

    format: str
    """A column of the table of names."""
    prefix: str
    """What comes before the network's names."""
    words: str
    """The format as people call it."""
    found: list[tuple[str | None, str, Tensor]]
    """(our name or None, the source's name, tensor)."""
    left: list[str]
    """The source's names that are known to have no place."""
    wrapper: str
    """What DDP or torch.compile put before every name."""

    def source_name(self, ours: str) -> str:
        """What the source would call a parameter that it lacks: as the other one of its layer, if that is there."""
        module, _, kind = ours.rpartition(".")
        sibling = next((found for found in self.found if found[0] == f"{module}.{SIBLINGS.get(kind)}"), None)
        if sibling is not None:
            _, original, tensor = sibling
            layer, _, other = original.rpartition(".")
            is_kernel = MINKOWSKI in self.words and other == "bias" and tensor.ndim == 2
            return f"{layer}.{'kernel' if is_kernel else SIBLINGS[other]}"
        if ours.startswith(DECODER):
            name = ours if self.format == "timm" else ours.removeprefix(DECODER)
            return self.wrapper + _holder(self.prefix) + name
        return self.wrapper + self.prefix + (from_timm(ours, self.format) or ours)


class _Parameter(NamedTuple):
    name: str
    original: str
    """The source's name for it."""
    tensor: Tensor


def _unwrapped(name: str) -> str:
    while name.startswith(WRAPPERS):
        name = name.partition(".")[2]
    return name


def _holder(prefix: str) -> str:
    """The prefix of the module that holds the network of this prefix."""
    name = next((name for name in HELD_AS if prefix == name or prefix.endswith(f".{name}")), "")
    return prefix.removesuffix(name)


def _network_in(names: list[str], origin: str) -> tuple[str, str]:
    """The format and the prefix of the one ConvNeXt among these names."""
    found = find_networks(names)
    if not found:
        some = ", ".join(sorted(names)[:3]) or "nothing"
        raise UserError(
            f"{origin} holds no ConvNeXt encoder of fcmae, timm, transformers, mmpretrain, MMEarth or the official "
            f"code, but {some}"
        )
    if len(found) > 1:
        several = " and ".join(f"{prefix + '…' if prefix else '…'} ({format})" for format, prefix in sorted(found))
        raise UserError(f"{origin} holds more than one network: {several}; give the state dict of one")
    return next(iter(found))


def recognize(tensors: Mapping[str, Tensor], origin: str) -> Recognized:
    """Find the one ConvNeXt among these tensors, and our names for it.

    Raises:
        UserError: there is none, or more than one.
    """
    parameters = [_Parameter(_unwrapped(name), name, tensor) for name, tensor in tensors.items()]
    format, prefix = _network_in([p.name for p in parameters], origin)
    words: str = format
    inside = [p._replace(name=p.name.removeprefix(prefix)) for p in parameters if p.name.startswith(prefix)]
    outside = [p for p in parameters if not p.name.startswith(prefix)]
    if format == "official":
        if any(p.name.startswith(("stem_orig.", "initial_conv.")) for p in inside):
            words = "MMEarth"
            inside = [p._replace(name=_from_mmearth(p.name)) for p in inside]
        if any(p.name.endswith(".kernel") for p in inside):
            words += f" training checkpoint, {MINKOWSKI}"
            inside = [_from_minkowski(p) for p in inside]
    renamed = [(to_timm(p.name, format), p) for p in inside]
    outside = [p._replace(name=p.name.removeprefix(_holder(prefix))) for p in outside]
    renamed += [(_beside(p.name, format, words), p) for p in outside]
    known = LEFT.get(format, ())
    left = [p.original for ours, p in renamed if ours is None and p.name.startswith(known)]
    found = [(ours, p.original, p.tensor) for ours, p in renamed if ours is not None or not p.name.startswith(known)]
    if format == "timm":
        words = "fcmae" if any(ours is not None and ours.startswith(DECODER) for ours, _, _ in found) else "timm"
    wrapper = next(p.original.removesuffix(p.name) for p in parameters)
    return Recognized(format, prefix, words, found, left, wrapper)


def _from_minkowski(parameter: _Parameter) -> _Parameter:
    name, tensor = from_minkowski(parameter.name, parameter.tensor)
    return parameter._replace(name=name, tensor=tensor)


def _from_mmearth(name: str) -> str:
    theirs = next((start for start in MMEARTH if name.startswith(start)), "")
    return MMEARTH.get(theirs, "") + name.removeprefix(theirs)


def _beside(name: str, format: str, recognized: str) -> str | None:
    """Our name for what lies beside the encoder: the decoder of an FCMAE, or a classifier."""
    if format in CLASSIFIERS:
        classifier = CLASSIFIERS[format]
        return name.replace(classifier, "head.fc.", 1) if name.startswith(classifier) else None
    if format == "timm":
        return name if name.startswith(DECODER) else None
    if recognized.startswith("MMEarth"):
        return None
    if name == "mask_token" or name.startswith(("proj.", "pred.")):
        return f"{DECODER}{name}"
    block = to_timm(f"stages.0.{name.removeprefix(DECODER)}", "official") if name.startswith(DECODER) else None
    return block and block.replace("stages.0.blocks.", "decoder.blocks.")

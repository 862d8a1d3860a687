"""Nothing is guessed: any size, channel count, prefix and GRN shape is read, and any key amiss raises and is named."""

import re
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import fcmae
from fcmae.models.outline import outlined
from fcmae.models.sizes import SIZES
from tests.fcmae.weights.foreign import as_mmearth, as_mmpretrain, as_training_checkpoint

NAMES = fcmae.list_models()
LAYOUTS = {
    "fcmae": lambda state: {f"encoder.{k}": v for k, v in fcmae.convert_to_dense(state).items()},
    "timm": fcmae.convert_to_dense,
    "official": lambda state: fcmae.convert_to_dense(state, "official"),
    "transformers": lambda state: fcmae.convert_to_dense(state, "transformers"),
    "mmpretrain": lambda state: as_mmpretrain(fcmae.convert_to_dense(state, "official")),
    "MMEarth": lambda state: as_mmearth(fcmae.convert_to_dense(state, "official")),
    "training checkpoint": lambda state: as_training_checkpoint(fcmae.convert_to_dense(state, "official")),
}
ISOTROPIC_LAYOUTS = ("fcmae", "official", "timm")
WITH_HEAD = ("timm", "official", "transformers", "mmpretrain")
GRN_SHAPES = ([-1], [1, -1], [1, 1, 1, -1])


def shapes(state: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


@cache
def encoder_of(name: str, stem_stride: int) -> dict[str, Tensor]:
    """Of one channel, shapes alone."""
    with outlined():
        model = fcmae.create_model(name, in_chans=1, stem_stride=stem_stride, img_size=32, decoder_dim=3)
    return model.encoder.state_dict()


@st.composite
def checkpoints(draw: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(ours, the same in another layout), shapes alone."""
    name = draw(st.sampled_from(NAMES))
    in_chans, stride = draw(st.integers(1, 16)), draw(st.sampled_from(SIZES[name].stem_strides))
    ours = dict(encoder_of(name, stride))
    width = SIZES[name].dims[-1]
    ours["stem.0.weight"] = ours["stem.0.weight"].expand(-1, in_chans, -1, -1)
    chosen = draw(st.sampled_from(ISOTROPIC_LAYOUTS if SIZES[name].is_isotropic else sorted(LAYOUTS)))
    if chosen in WITH_HEAD and draw(st.booleans()):
        classes = draw(st.integers(2, 9))
        ours |= {f"head.norm.{kind}": torch.empty(width, device="meta") for kind in ("weight", "bias")}
        ours |= {"head.fc.weight": torch.empty(classes, width, device="meta")}
        ours |= {"head.fc.bias": torch.empty(classes, device="meta")}
    layout = LAYOUTS[chosen](ours)
    if chosen == "fcmae":
        with outlined():
            whole = fcmae.create_model(name, in_chans=in_chans, stem_stride=stride, img_size=32, decoder_dim=3)
        assert shapes(whole.encoder.state_dict()) == shapes(ours)
        layout |= {f"decoder.{name}": tensor for name, tensor in whole.decoder.state_dict().items()}
    grn_shape = draw(st.sampled_from(GRN_SHAPES))
    layout = {k: v.reshape(grn_shape) if ".grn." in k else v for k, v in layout.items()}
    prefix = draw(st.sampled_from(["", "module.", "_orig_mod.", "module._orig_mod.", "model.", "net.trunk."]))
    return ours, {f"{prefix}{name}": tensor for name, tensor in layout.items()}


relaxed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@relaxed
@given(checkpoints())
def test_every_layout_is_recognized_whole(pair: tuple[dict[str, Tensor], dict[str, Tensor]]) -> None:
    ours, theirs = pair
    assert shapes(fcmae.convert_to_dense(theirs)) == shapes(ours)


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.net.trunk."])
@pytest.mark.parametrize("layout", WITH_HEAD)
def test_a_classifier_is_found_in_whatever_holds_the_network(layout: str, prefix: str) -> None:
    """It lies beside the network in some layouts, and both in what a training framework wraps them in."""
    with outlined():
        ours = fcmae.create_dense(fcmae.create_model().encoder.state_dict(), num_classes=5).state_dict()
    theirs = {f"{prefix}{name}": tensor for name, tensor in LAYOUTS[layout](ours).items()}
    assert shapes(fcmae.convert_to_dense(theirs)) == shapes(ours)


@relaxed
@given(checkpoints(), st.data())
def test_a_missing_key_raises_and_is_named(
    pair: tuple[dict[str, Tensor], dict[str, Tensor]], data: st.DataObject
) -> None:
    _, theirs = pair
    lost = data.draw(st.sampled_from(sorted(theirs)))
    with pytest.raises(ValueError, match="missing") as error:
        fcmae.convert_to_dense({name: tensor for name, tensor in theirs.items() if name != lost})
    assert re.search(rf"missing {re.escape(lost)}( \[|$)", str(error.value))


@relaxed
@given(checkpoints(), st.data())
def test_a_strange_key_raises_and_is_named(
    pair: tuple[dict[str, Tensor], dict[str, Tensor]], data: st.DataObject
) -> None:
    _, theirs = pair
    like = data.draw(st.sampled_from(sorted(theirs)))
    strange = data.draw(st.sampled_from([like + "_ema", like + ".extra", "strange", like.replace(".0.", ".77.", 1)]))
    if strange in theirs:
        return
    with pytest.raises(ValueError, match=r"unknown|more than one network") as error:
        fcmae.convert_to_dense(theirs | {strange: torch.empty(1, device="meta")})
    assert strange in str(error.value) or "more than one" in str(error.value)


@relaxed
@given(checkpoints(), st.data())
def test_a_misshapen_key_raises_and_is_named(
    pair: tuple[dict[str, Tensor], dict[str, Tensor]], data: st.DataObject
) -> None:
    _, theirs = pair
    bad = data.draw(st.sampled_from(sorted(theirs)))
    grow = data.draw(st.integers(0, theirs[bad].ndim - 1))
    shape = [n + 1 if axis == grow else n for axis, n in enumerate(theirs[bad].shape)]
    if (
        bad.endswith(("stem.0.weight", "stem.weight", "0.0.weight", "patch_embeddings.weight", "stem_orig.0.weight"))
        and grow == 1
    ):
        return  # a stem of one channel more is whole
    with pytest.raises(ValueError, match=r"expected|a stem may have") as error:
        fcmae.convert_to_dense(theirs | {bad: torch.empty(shape, device="meta")})
    assert bad in str(error.value)

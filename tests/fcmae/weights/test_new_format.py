"""A format is one object: a made-up one in the list is recognized, checked, converted and written like the others."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import fcmae
from fcmae.weights.convert import convert_weights
from fcmae.weights.formats import KNOWN, Format, Target, targets
from fcmae.weights.formats.names import Names, networks
from fcmae.weights.formats.official import ISOTROPIC
from fcmae.weights.formats.timm import MODULES, TIMM
from fcmae.weights.write import write

TABLE = Names(
    [(module, module.replace("stages.{s}.blocks.{b}", "toy{s}_{b}")) for module in MODULES], grn="weight bias"
)


def reversed_channels(name: str, tensor: Tensor) -> Tensor:
    """The toy's depthwise kernels hold their channels in reverse."""
    return tensor.flip(0) if name.endswith("conv_dw.weight") else tensor


def to_timm(name: str, tensor: Tensor) -> tuple[str, Tensor] | None:
    named = TABLE.to_timm(name, tensor)
    return named and (named[0], reversed_channels(named[0], tensor))


DECODER = Names([("decoder.mask_token", "toy_token"), ("decoder.proj", "toy_proj")])
TOY = Format(
    name="toy",
    matches=lambda names: networks(r"toy\d_\d+\.(?:conv_dw|mlp\.fc1)", names),
    to_timm=to_timm,
    from_timm=lambda name: TABLE.from_timm(name) or DECODER.from_timm(name),
    beside=DECODER.to_timm,
    held_as=("trunk.",),
    leftovers=("toy_junk.",),
    target=Target(
        layout=reversed_channels, folder_files={"toy.json": lambda weights, pixels, stated: {"mean": pixels.mean}}
    ),
)


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """The toy's weights, and the toy in the list of formats."""
    monkeypatch.setattr("fcmae.weights.formats.KNOWN", [*KNOWN, TOY])
    state = fcmae.create_model("convnextv2_atto", decoder_dim=1).encoder.state_dict()
    return {f"trunk.{TOY.from_timm(name)}": reversed_channels(name, tensor) for name, tensor in state.items()}


def ours(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    named = [to_timm(name.removeprefix("trunk."), tensor) for name, tensor in theirs.items()]
    return dict(one for one in named if one is not None)


def equal(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return got.keys() == wanted.keys() and all(torch.equal(got[name], wanted[name]) for name in wanted)


def test_it_is_recognized(theirs: dict[str, Tensor]) -> None:
    conversion = convert_weights(
        {f"module.{name}": tensor for name, tensor in theirs.items()} | {"toy_junk.a": torch.ones(1)}
    )
    assert conversion.weights.format == "toy"
    assert conversion.left == ["toy_junk.a"]
    assert equal(conversion.state, ours(theirs))
    assert conversion.source_names["stages.2.blocks.3.conv_dw.bias"] == "module.trunk.toy2_3.conv_dw.bias"


@pytest.mark.parametrize(
    ("lost", "added", "message"),
    [
        ("trunk.toy2_3.conv_dw.weight", {}, r"\(toy\): missing trunk\.toy2_3\.conv_dw\.weight \[160, 1, 7, 7\]"),
        (None, {"trunk.toy2_3.strange": torch.ones(1)}, r"unknown trunk\.toy2_3\.strange"),
        (None, {"toy_token": torch.ones(1)}, r"missing toy_proj\.weight \[1, 320\]"),
    ],
)
def test_it_is_checked(theirs: dict[str, Tensor], lost: str | None, added: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fcmae.convert_to_dense({name: tensor for name, tensor in theirs.items() if name != lost} | added)


def test_it_is_written(theirs: dict[str, Tensor], tmp_path: Path) -> None:
    conversion = convert_weights(ours(theirs), "toy")
    write(conversion, None, tmp_path / "toy", "toy")
    assert (tmp_path / "toy" / "toy.json").is_file()
    assert equal({f"trunk.{k}": v for k, v in load_file(tmp_path / "toy" / "model.safetensors").items()}, theirs)


def test_without_it_nothing_is_known_of_it(theirs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert "toy" not in targets()
    known = re.escape("; ".join(one.name for one in KNOWN))
    with pytest.raises(ValueError, match=rf"holds no ConvNeXt encoder of a known format \({known}\), but trunk"):
        fcmae.convert_to_dense(theirs)


@pytest.mark.parametrize("format", KNOWN, ids=lambda format: format.name)
def test_names_lead_there_and_back(format: Format) -> None:
    """What a format calls a parameter is read as that parameter."""
    name = "convnext_isotropic_small" if format is ISOTROPIC else "convnextv2_atto"
    with torch.device("meta"):
        model = fcmae.create_model(name, decoder_dim=1, use_grn=True, use_layer_scale=True)
    for name, tensor in model.encoder.state_dict().items():
        theirs = format.from_timm(name)
        assert theirs is not None
        named = format.to_timm(theirs, tensor)
        assert named is not None
        assert named[0] == name
        assert TIMM.from_timm(name) == name

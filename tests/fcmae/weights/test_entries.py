"""Of weights and their average over the steps, the average is taken and said; use_ema=False takes the others."""

from pathlib import Path

import pytest
import timm
import torch
from timm.models import load_state_dict
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import fcmae
from fcmae.weights.load import load_model

PAIRS = [
    ("state_dict", "state_dict_ema"),
    ("model", "model_ema"),
    ("model", "ema_state_dict"),
    ("model_state_dict", "model_ema_state_dict"),
    ("module", "module_ema"),
    ("net", "ema"),
    ("params", "params_ema"),
]


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    return fcmae.create_model("convnextv2_atto", decoder_dim=1).encoder.state_dict()


@pytest.fixture(scope="module")
def averaged(trained: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor + 0.25 for name, tensor in trained.items()}


def same(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return got.keys() == wanted.keys() and all(torch.equal(got[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(("plain", "ema"), PAIRS)
def test_either_of_two_entries(
    trained: dict[str, Tensor],
    averaged: dict[str, Tensor],
    caplog: pytest.LogCaptureFixture,
    plain: str,
    ema: str,
) -> None:
    both = {plain: trained, ema: averaged, "epoch": 3}
    with caplog.at_level("INFO"):
        assert same(fcmae.convert_to_dense(both), averaged)
        assert f"the averaged weights ({ema}) are taken; use_ema=False takes {plain}" in caplog.text
        assert same(fcmae.convert_to_dense(both, use_ema=False), trained)
        assert f"the weights that are not averaged ({plain}) are taken, not {ema}" in caplog.text


@pytest.mark.parametrize(("plain", "ema"), PAIRS[:2])
def test_timm_takes_the_same(
    trained: dict[str, Tensor], averaged: dict[str, Tensor], tmp_path: Path, plain: str, ema: str
) -> None:
    torch.save({plain: trained, ema: averaged}, tmp_path / "a.pth")
    for use_ema in (True, False):
        theirs = load_state_dict(str(tmp_path / "a.pth"), use_ema=use_ema)
        assert same(fcmae.convert_to_dense(tmp_path / "a.pth", use_ema=use_ema), theirs)


def test_the_functions_pass_it_on(trained: dict[str, Tensor], averaged: dict[str, Tensor]) -> None:
    both = {"model": trained, "model_ema": averaged}
    model = fcmae.create_model("convnextv2_atto", decoder_dim=1)
    for use_ema, wanted in ((True, averaged), (False, trained)):
        dense = fcmae.create_dense(both, use_ema=use_ema)
        assert torch.equal(dense.stem[0].weight, wanted["stem.0.weight"])
        fcmae.load_encoder(model, both, use_ema=use_ema)
        assert torch.equal(model.encoder.stem[0].weight, wanted["stem.0.weight"])


def test_a_whole_fcmae_too() -> None:
    model = fcmae.create_model("convnextv2_atto", decoder_dim=2)
    state = model.state_dict()
    both = {"model": state, "model_ema": {name: tensor + 1 for name, tensor in state.items()}}
    assert torch.equal(load_model(both).decoder.pred.bias, model.decoder.pred.bias + 1)
    assert torch.equal(load_model(both, use_ema=False).decoder.pred.bias, model.decoder.pred.bias)


@pytest.mark.parametrize("empty", [None, {}, {"decay": 0.999, "updates": 7}, 0.99])
def test_an_average_without_weights_is_none(trained: dict[str, Tensor], empty: object) -> None:
    assert same(fcmae.convert_to_dense({"model": trained, "model_ema": empty}), trained)


def test_an_average_alone(averaged: dict[str, Tensor]) -> None:
    assert same(fcmae.convert_to_dense({"model_ema": averaged}), averaged)
    with pytest.raises(ValueError, match=r"holds averaged weights only \(model_ema\); take them without use_ema=False"):
        fcmae.convert_to_dense({"model_ema": averaged}, use_ema=False)


def test_mmengine_swaps_them(trained: dict[str, Tensor], averaged: dict[str, Tensor]) -> None:
    """Its hook puts the average into ``state_dict``, and what was trained into ``ema_state_dict``."""
    of_average = {f"module.{name}": tensor for name, tensor in trained.items()} | {"steps": torch.tensor(9)}
    found = {"meta": {"epoch": 1}, "message_hub": {}, "state_dict": averaged, "ema_state_dict": of_average}
    assert same(fcmae.convert_to_dense(found), averaged)
    assert same(fcmae.convert_to_dense(found, use_ema=False), trained)


def test_lightning_swaps_them(trained: dict[str, Tensor], averaged: dict[str, Tensor]) -> None:
    found = {"state_dict": averaged, "current_model_state": trained, "averaging_state": {"n_averaged": torch.tensor(3)}}
    assert same(fcmae.convert_to_dense(found), averaged)
    assert same(fcmae.convert_to_dense(found, use_ema=False), trained)


@pytest.mark.parametrize(
    ("plain", "ema"),
    [("model.", "model_ema."), ("model.", "ema_model.module."), ("", "ema."), ("net.", "net_averaged."), ("", "swa.")],
)
def test_two_networks_in_one_state_dict(
    trained: dict[str, Tensor], averaged: dict[str, Tensor], plain: str, ema: str
) -> None:
    both = {f"{plain}{name}": tensor for name, tensor in trained.items()}
    both |= {f"{ema}{name}": tensor for name, tensor in averaged.items()}
    assert same(fcmae.convert_to_dense(both), averaged)
    assert same(fcmae.convert_to_dense(both, use_ema=False), trained)


def test_two_whole_fcmae_in_one_state_dict() -> None:
    state = fcmae.create_model("convnextv2_atto", decoder_dim=2).state_dict()
    both = {f"model.{name}": tensor for name, tensor in state.items()}
    both |= {f"model_ema.{name}": tensor + 1 for name, tensor in state.items()}
    assert torch.equal(load_model(both).decoder.pred.bias, state["decoder.pred.bias"] + 1)
    assert torch.equal(load_model(both, use_ema=False).decoder.pred.bias, state["decoder.pred.bias"])


def test_torchs_averaged_model(trained: dict[str, Tensor]) -> None:
    """Its counter is no weight."""
    network: nn.Module = timm.create_model("convnextv2_atto", num_classes=0)
    state = AveragedModel(network).state_dict()
    assert "n_averaged" in state
    assert torch.equal(fcmae.convert_to_dense(state)["stem.0.weight"], network.stem[0].weight)

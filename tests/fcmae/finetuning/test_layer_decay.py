"""Learning rates and weight decays by layer: against the papers' rule, written out, and against timm's own groups."""

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay

from fcmae.finetuning.layer_decay import layer_of, param_groups


def literal(names: list[str], layer_decay: float, groups: list[list[str]]) -> dict[str, float]:
    """The scale of every parameter, from the beginnings of the names in each layer, first to last; the head has 1."""
    scales = {}
    for name in names:
        layers = [n for n, starts in enumerate(groups) if name.startswith(tuple(starts))]
        assert len(layers) <= 1
        scales[name] = layer_decay ** (len(groups) - layers[0]) if layers else 1.0
    return scales


def ours(model: torch.nn.Module, groups: list[dict]) -> dict[str, tuple[float, float]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    pairs = [(group.get("lr_scale", 1.0), group["weight_decay"]) for group in groups]
    return {names[id(p)]: pair for group, pair in zip(groups, pairs, strict=True) for p in group["params"]}


def test_groups_of_three_blocks_are_those_of_the_paper() -> None:
    """Appendix A.1 of ConvNeXt: 12 layers of (3, 3, 27, 3), 'each group is three consecutive blocks'."""
    with torch.device("meta"):
        model = timm.create_model("convnextv2_base", num_classes=7)
    layers = [["stem."], ["stages.0."], ["stages.1."]]
    for first in range(0, 27, 3):
        layers.append([f"stages.2.blocks.{first + n}." for n in range(3)])
    layers[3].append("stages.2.downsample.")
    layers.append(["stages.3."])
    assert len(layers) == 13  # the stem, and the 12
    expected = literal([name for name, _ in model.named_parameters()], 0.6, layers)
    found = ours(model, param_groups(model, (3, 3, 27, 3), 0.05, 0.6, "three"))
    assert found.keys() == expected.keys()
    for name, parameter in model.named_parameters():
        assert found[name] == (pytest.approx(expected[name], rel=1e-12), 0.0 if parameter.ndim == 1 else 0.05)
    assert min(expected.values()) == pytest.approx(0.6**13)


@pytest.mark.parametrize(("name", "depths"), [("convnextv2_atto", (2, 2, 6, 2)), ("convnext_tiny", (3, 3, 9, 3))])
def test_layers_are_timms_but_for_the_stem_which_goes_with_the_first_block(name: str, depths: tuple[int, ...]) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=7)
    found = ours(model, param_groups(model, depths, 0.3, 0.9, "layer"))
    of_timm = ours(model, param_groups_layer_decay(model, weight_decay=0.3, layer_decay=0.9))
    assert found.keys() == of_timm.keys()
    for parameter, (scale, decay) in of_timm.items():
        expected = scale / 0.9 if parameter.startswith("stem.") else scale
        assert found[parameter] == (pytest.approx(expected, rel=1e-12), decay)
    first = found["stages.0.blocks.0.conv_dw.weight"][0]
    assert found["stem.0.weight"][0] == first == pytest.approx(0.9 ** sum(depths))
    assert found["head.fc.weight"][0] == 1


def test_without_decay_there_are_two_groups_and_frozen_parameters_are_left_out() -> None:
    model = timm.create_model("convnextv2_atto", num_classes=3)
    model.stem.requires_grad_(False)
    groups = param_groups(model, (2, 2, 6, 2), 0.05, 1.0, "layer")
    assert [group["weight_decay"] for group in groups] == [0.0, 0.05]
    assert not any(name.startswith("stem.") for name in ours(model, groups))
    with_decay = ours(model, param_groups(model, (2, 2, 6, 2), 0.05, 0.9, "layer"))
    assert with_decay.keys() == ours(model, groups).keys()
    assert with_decay["stages.0.blocks.0.norm.weight"] == (pytest.approx(0.9**12), 0.0)


def test_an_isotropic_network_is_one_stage() -> None:
    names = [f"stages.0.blocks.{n}.norm.weight" for n in range(18)]
    assert [layer_of(name, (18,), "layer") for name in names] == list(range(1, 19))
    assert [layer_of(name, (18,), "three") for name in names] == [1 + n // 3 for n in range(18)]
    assert [layer_of(name, (18,), "three") for name in ("stem.0.weight", "head.fc.bias")] == [0, 7]


def test_the_head_is_the_last_layer() -> None:
    assert layer_of("head.norm.weight", (3, 3, 27, 3), "three") == 13
    assert layer_of("head.fc.bias", (2, 2, 6, 2), "layer") == 13
    assert layer_of("stages.1.downsample.0.weight", (2, 2, 6, 2), "layer") == 3
    assert layer_of("stages.1.blocks.0.norm.weight", (2, 2, 6, 2), "layer") == 3


def test_layers_of_an_isotropic_network() -> None:
    """Its one stage: every block, or groups of three."""
    block = "stages.0.blocks.{}.mlp.fc1.weight"
    assert [layer_of(block.format(n), (18,), "layer") for n in (0, 2, 3, 17)] == [1, 3, 4, 18]
    assert [layer_of(block.format(n), (18,), "three") for n in (0, 2, 3, 17)] == [1, 1, 2, 6]
    assert [layer_of("stem.0.weight", (18,), by) for by in ("layer", "three")] == [1, 0]
    assert [layer_of("head.fc.weight", (18,), by) for by in ("layer", "three")] == [19, 7]

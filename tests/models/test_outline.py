"""Networks without values: the shapes of those with values, nothing drawn."""

import pytest
import timm
import torch
from torch import nn

import fcmae.models.isotropic  # noqa: F401  # registers names with timm
from fcmae.models import ModelConfig, SparseConvNeXt
from fcmae.models.outline import outlined


@pytest.mark.parametrize("name", ["convnextv2_atto", "convnext_tiny", "convnext_isotropic_small"])
def test_shapes_are_those_of_the_network_and_nothing_is_drawn(name: str) -> None:
    def make() -> list[nn.Module]:
        return [SparseConvNeXt(ModelConfig(name)), timm.create_model(name, num_classes=3, drop_path_rate=0.1)]

    before = torch.get_rng_state()
    with outlined():
        outlines = make()
    assert torch.equal(torch.get_rng_state(), before)
    for outline, network in zip(outlines, make(), strict=True):
        found, wanted = outline.state_dict(), network.state_dict()
        assert {name: one.shape for name, one in found.items()} == {name: one.shape for name, one in wanted.items()}
        assert all(one.is_meta for one in found.values())
        assert not list(network.buffers())  # an outline would leave those without values
        rates = [[m.drop_prob for m in one.modules() if hasattr(m, "drop_prob")] for one in (outline, network)]
        assert rates[0] == rates[1]
    assert not torch.equal(torch.get_rng_state(), before)


def test_tensors_elsewhere_change_as_ever() -> None:
    with outlined():
        here = torch.zeros(2, device="cpu")
        nn.init.ones_(here)
        here.add_(1)
        parameter = nn.Parameter(torch.empty(3)).requires_grad_(False)
    assert here.tolist() == [2, 2]
    assert parameter.is_meta and not parameter.requires_grad  # noqa: PT018
    assert torch.zeros(1).device.type == "cpu"


def test_rates_that_are_read_from_linspace_have_values() -> None:
    """As timm before 1.0.21 does."""
    with outlined():
        assert [one.tolist() for one in torch.linspace(0, 1, 5).split((2, 3))] == [[0, 0.25], [0.5, 0.75, 1]]

"""The moving average of the weights: timm's, unless the run is too short for the decay."""

import logging

import pytest
import timm
import torch
from timm.utils import ModelEmaV2, ModelEmaV3
from torch import nn

from fcmae.finetuning.average import average_decay, make_average


@pytest.mark.parametrize("steps", [62_500, 125_100, 750_600])
def test_runs_of_the_papers_length_keep_their_decay(steps: int) -> None:
    assert average_decay(0.9999, steps) == 0.9999


def test_a_short_run_forgets_its_initial_weights(caplog: pytest.LogCaptureFixture) -> None:
    """From 1 towards 0 in 100 steps: 0.9999 would leave 0.99."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    with caplog.at_level(logging.WARNING):
        average = make_average(model, 0.9999, 100)
    assert "--train.ema 0.9999 is lowered to 0.955" in caplog.text
    assert "99% of the initial weights" in caplog.text
    assert average is not None
    nn.init.zeros_(model.weight)
    for _ in range(100):
        average.update(model)
    assert average.module.weight.item() == pytest.approx(0.01, rel=1e-3)  # type: ignore[union-attr]


def test_the_average_is_the_recursion() -> None:
    """a ← 0.9 a + 0.1 w, from the initial weights on."""
    model = nn.Linear(3, 2)
    average = make_average(model, 0.9, 1000)
    assert average is not None
    expected = model.weight.detach().clone()
    for _ in range(5):
        nn.init.normal_(model.weight)
        average.update(model)
        expected = 0.9 * expected + 0.1 * model.weight.detach()
    assert torch.allclose(average.module.weight, expected, atol=1e-6)  # type: ignore[arg-type]
    assert make_average(model, 0.0, 1000) is None


def test_the_average_is_timms_number_by_number() -> None:
    """V3's bit for bit, V2's but for rounding: every entry of a network's state dict."""
    model = timm.create_model("convnextv2_atto", num_classes=2)
    ours, v3, v2 = make_average(model, 0.9999, 100_000), ModelEmaV3(model, decay=0.9999), ModelEmaV2(model, 0.9999)
    assert ours is not None
    for _ in range(3):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        for average in (ours, v3, v2):
            average.update(model)
    averages = [one.module.state_dict() for one in (ours, v3, v2)]  # type: ignore[union-attr]
    for name, value in averages[0].items():
        assert torch.equal(value, averages[1][name])
        torch.testing.assert_close(value, averages[2][name], rtol=1e-5, atol=1e-6)
        assert not torch.equal(value, model.state_dict()[name])

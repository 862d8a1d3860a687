"""What is decayed, and the learning rate at each step."""

import math

import pytest
import torch

import fcmae
from fcmae.config import TrainConfig
from fcmae.training.optimizer import make_optimizer, make_schedule


@pytest.mark.parametrize("name", ["convnextv2_atto", "convnext_tiny"])
def test_kernels_alone_are_decayed(name: str) -> None:
    model = fcmae.create_model(name, decoder_dim=32)
    optimizer = make_optimizer(model, TrainConfig(weight_decay=0.07), 256)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert len(decay) == len(list(model.parameters()))
    for parameter_name, p in model.named_parameters():
        exempt = p.ndim == 1
        named = any(
            s in parameter_name for s in ("bias", "norm", "grn", "gamma", "mask_token", "stem.1", "downsample.0")
        )
        assert exempt == named, parameter_name
        assert decay[id(p)] == (0 if exempt else 0.07), parameter_name


@pytest.mark.parametrize("effective_batch", [64, 256, 4096])
def test_the_rate_is_scaled_by_the_effective_batch(effective_batch: int) -> None:
    optimizer = make_optimizer(torch.nn.Linear(2, 2), TrainConfig(base_lr=1.5e-4), effective_batch)
    assert all(g["lr"] == pytest.approx(1.5e-4 * effective_batch / 256) for g in optimizer.param_groups)
    assert optimizer.defaults["betas"] == (0.9, 0.95)


def test_warm_up_is_linear_then_half_a_cosine() -> None:
    train = TrainConfig(epochs=10, warmup_epochs=2, base_lr=1.0, min_lr=0.1)
    optimizer = make_optimizer(torch.nn.Linear(2, 2), train, 256)
    schedule = make_schedule(optimizer, train, total_steps=100)
    for step in range(100):
        schedule.step_update(step)
        cosine = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - 20) / 80))
        expected = step / 20 if step < 20 else cosine
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected)


@pytest.mark.parametrize(("epochs", "warmup_epochs"), [(800, 40), (10, 0.5)])
def test_unset_warm_up_is_the_schedule_of_5_percent_at_every_step(epochs: int, warmup_epochs: float) -> None:
    def rates(train: TrainConfig) -> list[float]:
        optimizer = make_optimizer(torch.nn.Linear(2, 2), train, 4096)
        schedule = make_schedule(optimizer, train, total_steps=1000)
        found = []
        for step in range(1000):
            schedule.step_update(step)
            found.append(optimizer.param_groups[0]["lr"])
        return found

    unset = rates(TrainConfig(epochs=epochs))
    assert unset == rates(TrainConfig(epochs=epochs, warmup_epochs=warmup_epochs))
    assert unset.index(max(unset)) == 50
    assert max(unset) == pytest.approx(2.4e-3)


def test_a_loaded_optimizer_keeps_the_schedule() -> None:
    """The rate of a step depends on the step alone, also when the optimizer was saved in the middle of a cosine."""
    train = TrainConfig(epochs=10, warmup_epochs=2)
    first = make_optimizer(torch.nn.Linear(2, 2), train, 256)
    make_schedule(first, train, 100).step_update(70)
    second = make_optimizer(torch.nn.Linear(2, 2), train, 256)
    second.load_state_dict(first.state_dict())
    for optimizer in (first, second):
        make_schedule(optimizer, train, 100).step_update(30)
    assert first.param_groups[0]["lr"] == second.param_groups[0]["lr"] > 1e-4


@pytest.mark.parametrize("total_steps", [1, 2])
def test_very_short_runs_have_a_schedule(total_steps: int) -> None:
    train = TrainConfig(epochs=1, warmup_epochs=0.9, base_lr=1.5e-4)
    optimizer = make_optimizer(torch.nn.Linear(2, 2), train, 256)
    schedule = make_schedule(optimizer, train, total_steps)
    for step in range(total_steps):
        schedule.step_update(step)
        assert 0 <= optimizer.param_groups[0]["lr"] <= 1.5e-4

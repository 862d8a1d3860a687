"""Gradients in one tensor: sums, and the layout in memory that the parameters have."""

import torch
from torch import Tensor, nn

from fcmae.training.gradients import FlatGradients


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 2), nn.Conv2d(5, 4, 3)).to(memory_format=torch.channels_last)


def losses(model: nn.Module) -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [model(torch.randn(2, 3, 6, 6, generator=draw)).square().mean() for _ in range(3)]


def test_sums_are_the_parameters_gradients_in_their_layout() -> None:
    model, expected = network(), network()
    sum(losses(expected)).backward()  # type: ignore[union-attr]
    gradients = FlatGradients(list(model.parameters()))
    for loss in losses(model):
        loss.backward()
        gradients.take()
        assert all(parameter.grad is None for parameter in model.parameters())
    gradients.give()
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        assert ours.grad is not None
        assert ours.grad.stride() == ours.stride()
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)
    memory = {parameter.grad.untyped_storage().data_ptr() for parameter in model.parameters()}  # type: ignore[union-attr]
    assert memory == {gradients.flat.untyped_storage().data_ptr()}
    assert torch.allclose(
        gradients.flat.abs().sum(), sum(p.grad.abs().sum() for p in expected.parameters())  # type: ignore[union-attr]
    )  # fmt: skip


def test_a_fused_optimizer_takes_the_same_steps() -> None:
    weights = []
    for is_flat in (True, False):
        model = network()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
        gradients = FlatGradients(list(model.parameters()))
        for _ in range(3):
            for loss in losses(model):
                loss.backward()
                if is_flat:
                    gradients.take()
            if is_flat:
                gradients.give()
            optimizer.step()
            optimizer.zero_grad()
            gradients.flat.zero_()
        weights.append([parameter.detach() for parameter in model.parameters()])
    assert all(torch.allclose(ours, theirs, atol=1e-5) for ours, theirs in zip(*weights, strict=True))

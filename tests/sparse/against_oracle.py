"""A sparse operation in some dtype against the oracle in float64: value and every gradient."""

from collections.abc import Callable

import torch
from torch import Tensor

# ‖got − expected‖ / ‖expected‖ that each dtype is allowed against float64
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1.5e-2, torch.float16: 2e-3}


def relative_error(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    assert got.isfinite().all()
    got, expected = got.detach().double(), expected.detach()
    return float((got - expected).norm() / expected.norm().clamp_min(1e-300))


def compare(
    sparse: Callable[..., Tensor], oracle: Callable[..., Tensor], tensors: list[Tensor], dtype: torch.dtype
) -> None:
    """Same value, same gradient to every tensor; ``sparse`` in ``dtype``, ``oracle`` in float64."""
    low = [t.to(dtype).requires_grad_() for t in tensors]
    high = [t.detach().double().requires_grad_() for t in low]
    got, expected = sparse(*low), oracle(*high)
    assert got.dtype == dtype
    assert relative_error(got, expected) < TOLERANCE[dtype]
    dy = torch.randn_like(expected)
    for i, (g, e) in enumerate(
        zip(torch.autograd.grad(got, low, dy.to(dtype)), torch.autograd.grad(expected, high, dy), strict=True)
    ):
        assert relative_error(g, e) < TOLERANCE[dtype], f"gradient {i}"

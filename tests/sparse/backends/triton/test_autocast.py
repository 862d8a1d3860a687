"""Under autocast: how exact, and of which type."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fcmae.sparse.backends.operations import Backend, MlpWeights
from fcmae.sparse.backends.registry import resolve_backend
from fcmae.sparse.backends.triton import grn_mlp
from fcmae.sparse.sites import ActiveSites
from tests.conftest import random_visible
from tests.sparse.backends.triton.made import DEVICE, randn


def rounded_error(got: Tensor, exact: Tensor) -> float:
    """‖got, rounded to bfloat16 − exact‖ / ‖exact‖: a wider result has no advantage."""
    assert got.shape == exact.shape
    return float((got.bfloat16().double() - exact).norm() / exact.norm())


def autocast_operations(sites: ActiveSites) -> list[Callable[..., Tensor]]:
    """Each with a backend, features and the parameters of all."""

    def conv(ops: Backend, x: Tensor, weight: Tensor, bias: Tensor, *_: Tensor) -> Tensor:
        return ops.depthwise_conv(x, weight, bias, sites, 2)

    def norm_of_conv(ops: Backend, x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, *_: Tensor) -> Tensor:
        return ops.layer_norm(conv(ops, x, weight, bias), scale, bias, 1e-6)

    def mlp(ops: Backend, x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, *others: Tensor) -> Tensor:
        return ops.mlp(ops.layer_norm(x, scale, bias, 1e-6), MlpWeights(*others), 2)

    def block(ops: Backend, x: Tensor, *others: Tensor) -> Tensor:
        y = norm_of_conv(ops, x, *others)
        return ops.mlp(y, MlpWeights(*others[3:]), 2, None, x)

    return [conv, norm_of_conv, mlp, block]


@pytest.mark.usefixtures("rounding_to_nearest")
@pytest.mark.parametrize("many_sites", [True, False])
@pytest.mark.parametrize("number", range(4))
def test_autocast_is_as_exact_as_pytorchs(number: int, many_sites: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Value and every gradient: against float64, at most twice as far off as PyTorch's own autocast (3% at most)."""
    monkeypatch.setattr(grn_mlp, "MANY_SITES", 0 if many_sites else 10**9)
    sites = ActiveSites(random_visible(2, 2, 3, 4).to(DEVICE))
    shapes = (32, 16), (16, 1, 7, 7), (16,), (16,), (48, 16), (48,), (48,), (48,), (16, 48), (16,)
    args = randn(*shapes)
    run, dy = autocast_operations(sites)[number], torch.randn(32, 16, device=DEVICE)

    def value_and_gradients(backend: str, dtype: torch.dtype, autocast: bool) -> list[Tensor | None]:
        tensors = [t.to(dtype).requires_grad_() for t in args]
        with torch.autocast(DEVICE, torch.bfloat16, enabled=autocast):
            out = run(resolve_backend(backend), *tensors)
        return [out.detach(), *torch.autograd.grad(out, tensors, dy.to(out.dtype), allow_unused=True)]

    exact = value_and_gradients("torch", torch.float64, False)
    theirs = value_and_gradients("torch", torch.float32, True)
    ours = value_and_gradients("triton", torch.float32, True)
    for i, (e, t, o) in enumerate(zip(exact, theirs, ours, strict=True)):
        assert (e is None) == (t is None) == (o is None)
        if e is not None and t is not None and o is not None:
            assert rounded_error(t, e) < 0.015
            assert rounded_error(o, e) < 2 * rounded_error(t, e), f"{i}"


def test_autocast_keeps_what_is_read_in_bfloat16() -> None:
    """LayerNorm keeps the type of what it reads: products read it next. A wider shortcut keeps its own, and weights."""
    x, weight, bias, *others = randn((16, 4), (4,), (4,), (9, 4), (9,), (9,), (9,), (4, 9), (4,))
    ops = resolve_backend("triton")
    weight.requires_grad_()
    with torch.autocast(DEVICE, torch.bfloat16):
        low = ops.layer_norm(x.bfloat16(), weight, bias, 1e-6)
        wide = ops.layer_norm(x, weight, bias, 1e-6)
        results = [ops.mlp(low, MlpWeights(*others), 2, None, shortcut) for shortcut in (None, x.bfloat16(), x)]
    assert [low.dtype, wide.dtype] == [torch.bfloat16, torch.float32]
    assert [out.dtype for out in results] == [torch.bfloat16, torch.bfloat16, torch.float32]
    assert torch.autograd.grad(low.float().sum(), weight)[0].dtype == torch.float32

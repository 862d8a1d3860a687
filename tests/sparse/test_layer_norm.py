"""Layer norm: the library's, but for its gradients where rows have a width that the library is slow at."""

import pytest
import torch
import torch.nn.functional as F

from fcmae.sparse import compiled, layer_norm, loops

EPS = 1e-6


@pytest.mark.parametrize("dtype", compiled.DTYPES)
@pytest.mark.parametrize(("rows", "channels"), [(1, 1), (7, 40), (32 * 64 + 5, 40), (100, 3), (50, 530)])
def test_value_and_gradients_in_double_precision(rows: int, channels: int, dtype: torch.dtype) -> None:
    """Also of a row that is constant, and of a gradient that is expanded."""
    x, (weight, bias) = 3 + torch.randn(rows, channels), torch.randn(2, channels)
    x[0] = 1
    low = [t.to(dtype).requires_grad_() for t in (x, weight, bias)]
    high = [t.detach().double().requires_grad_() for t in low]
    y, expected = layer_norm(*low, EPS), F.layer_norm(high[0], [channels], *high[1:], EPS)
    assert type(y.grad_fn).__name__ == "_LayerNormBackward"
    for dy in (torch.randn(rows, channels, dtype=torch.double), torch.randn(rows, 1).double().expand(rows, channels)):
        got = torch.autograd.grad(y, low, dy.to(dtype), retain_graph=True)
        want = torch.autograd.grad(expected, high, dy.to(dtype).double(), retain_graph=True)
        for a, b in zip((y, *got), (expected, *want), strict=True):
            assert a.dtype == dtype
            assert (a.double() - b).norm() <= (1e-5 if dtype == torch.float32 else 1e-11) * (b.norm() + rows)


def test_where_it_is_the_librarys() -> None:
    """A width that it is fast at, more axes (the dense baseline's), bfloat16, autocast, and without Numba."""
    weight, bias = torch.randn(2, 40, requires_grad=True)

    def name(x: torch.Tensor, channels: int = 40) -> str:
        return type(layer_norm(x, weight[:channels], bias[:channels], EPS).grad_fn).__name__

    x = torch.randn(6, 40)
    assert name(x) == "_LayerNormBackward"
    assert name(x[:, :32], 32) == "NativeLayerNormBackward0"
    assert name(x.view(2, 3, 40)) == "NativeLayerNormBackward0"
    with torch.autocast("cpu", torch.bfloat16):
        assert name(x) == "NativeLayerNormBackward0"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "_loops", lambda _process: None)
        assert name(x) == "NativeLayerNormBackward0"


def test_its_gradients_do_not_depend_on_the_number_of_threads() -> None:
    x, dy, weight = torch.randn(3000, 40), torch.randn(3000, 40), torch.randn(40)
    _, mean, rstd = torch.native_layer_norm(x, [40], weight, weight, EPS)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(loops.layer_norm_grad(dy, x, weight, mean, rstd))
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))

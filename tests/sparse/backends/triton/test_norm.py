"""LayerNorm, against PyTorch's."""

import pytest
import torch
from torch import Tensor

from fcmae.sparse.backends import pytorch
from fcmae.sparse.backends.triton import norm
from tests.sparse.against_oracle import compare
from tests.sparse.backends.triton.made import DTYPES, randn


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(("dtype", "cut"), [*((dtype, False) for dtype in DTYPES), (torch.float32, True)])
@pytest.mark.parametrize(("rows", "channels"), [(1, 3), (70, 8), (50, 96), (9, 530), (3, 2049)])
def test_layer_norm(rows: int, channels: int, dtype: torch.dtype, cut: bool, request: pytest.FixtureRequest) -> None:
    """Also of a row that is constant."""
    if cut:
        request.getfixturevalue("gpu_tiling")
    x, weight, bias = randn((rows, channels), (channels,), (channels,))
    x += 3
    x[0] = 1

    def oracle(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return torch.nn.functional.layer_norm(x, w.shape, w, b, 1e-2)

    compare(lambda x, w, b: norm.layer_norm(x, w, b, 1e-2), oracle, [x, weight, bias], dtype)


def test_layer_norm_of_any_layout() -> None:
    x, weight, bias = randn((2, 5, 8), (8,), (8,))
    expected = pytorch.layer_norm(x, weight, bias, 1e-6)
    torch.testing.assert_close(norm.layer_norm(x, weight, bias, 1e-6), expected)
    strided = x.permute(1, 0, 2)
    torch.testing.assert_close(norm.layer_norm(strided, weight, bias, 1e-6), expected.permute(1, 0, 2))
    wide = norm.layer_norm(x.double(), weight.double(), bias.double(), 1e-6)
    assert wide.dtype == torch.float64
    assert norm.layer_norm(x[:0], weight, bias, 1e-6).shape == (0, 5, 8)

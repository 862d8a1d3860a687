"""The MLP: GELU and GRN by kernels, or GRN in the weights, against the paper's formulas."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fcmae.sparse.backends import pytorch
from fcmae.sparse.backends.operations import MlpWeights
from fcmae.sparse.backends.triton import gelu_grn, grn_mlp
from tests.sparse.against_oracle import compare
from tests.sparse.backends.triton.made import DEVICE, DTYPES, mlp_tensors


def mlp_oracle(batch: int, x: Tensor, w1: Tensor, b1: Tensor, *others: Tensor) -> Tensor:
    """Image by image, with the paper's formulas."""
    gamma, beta, w2, b2 = others
    out = []
    for image in x.view(batch, -1, x.shape[1]):
        wide = torch.nn.functional.gelu(image @ w1.t() + b1)
        norm = wide.square().sum(0).sqrt()
        out.append((gamma * wide * (norm / (norm.mean() + 1e-6)) + beta + wide) @ w2.t() + b2)
    return torch.cat(out)


@pytest.mark.usefixtures("gpu_tiling", "poisoned")
@pytest.mark.parametrize("in_weights", [True, False])
@pytest.mark.parametrize(("sites", "hidden"), [(1, 9), (20, 130), (97, 35), (80, 129)])
def test_mlp_cut_as_on_a_gpu(sites: int, hidden: int, in_weights: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of images, blocks of channels, and tiles that do not come out even."""
    monkeypatch.setattr(grn_mlp, "MANY_SITES", 0 if in_weights else 10**9)
    monkeypatch.setattr(gelu_grn, "STEPS", 2)
    compare(
        lambda x, *w: grn_mlp.mlp(x, MlpWeights(*w), 2),
        lambda x, *w: mlp_oracle(2, x, *w),
        mlp_tensors(2, sites, 3, hidden, 5),
        torch.float32,
    )


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sites", [1, 6, 15, 16])
def test_mlp_in_every_dtype(sites: int, dtype: torch.dtype) -> None:
    """With GRN by kernel, and from 16 sites on in the weights."""
    compare(
        lambda x, *w: grn_mlp.mlp(x, MlpWeights(*w), 3),
        lambda x, *w: mlp_oracle(3, x, *w),
        mlp_tensors(3, sites, 6, 9, 4),
        dtype,
    )


@pytest.mark.parametrize("sites", [3, 16])
def test_mlp_of_some_rows_and_a_shortcut(sites: int) -> None:
    """The shortcut is left as it was, every site counts in the norm, and the result may be written to."""
    rows = torch.tensor([2, 0, sites + 1, sites - 1], device=DEVICE)
    for chosen in (None, rows):
        tensors = mlp_tensors(2, sites, 4, 9, 4)
        shortcut = torch.randn(2 * sites if chosen is None else 4, 4, device=DEVICE)
        before = shortcut.clone()
        every: Any = slice(None) if chosen is None else chosen
        compare(
            lambda s, x, *w, rows=chosen: grn_mlp.mlp(x, MlpWeights(*w), 2, rows, s).mul_(2),
            lambda s, x, *w, every=every: 2 * (s + mlp_oracle(2, x, *w)[every]),
            [shortcut, *tensors],
            torch.float32,
        )
        assert torch.equal(shortcut, before)


@pytest.mark.parametrize("sites", [3, 16])
def test_mlp_of_dead_channels_has_finite_gradients(sites: int) -> None:
    """GELU(−∞ …) is 0: a channel that is 0 at every site has no norm to divide by."""
    x, *w = mlp_tensors(2, sites, 4, 9, 4)
    w[0][0], w[1][0] = 0, -1e4
    args = [t.requires_grad_() for t in (x, *w)]
    out = grn_mlp.mlp(args[0], MlpWeights(*args[1:]), 2)
    assert out.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(out.square().sum(), args))


def test_mlp_calls_pytorch_where_the_kernels_cannot_run() -> None:
    """Without GRN, in float64; and shapes that do not fit are refused as there."""
    x, *w = mlp_tensors(2, 3, 4, 9, 4)
    without = MlpWeights(w[0], w[1], None, None, w[4], w[5])
    assert torch.equal(grn_mlp.mlp(x, without, 2), pytorch.mlp(x, without, 2))
    wide = [t.double() for t in (x, *w)]
    assert torch.equal(grn_mlp.mlp(wide[0], MlpWeights(*wide[1:]), 2), pytorch.mlp(wide[0], MlpWeights(*wide[1:]), 2))
    with pytest.raises(ValueError, match="must be"):
        grn_mlp.mlp(x, MlpWeights(*w)._replace(grn_weight=torch.zeros(1, device=DEVICE)), 2)

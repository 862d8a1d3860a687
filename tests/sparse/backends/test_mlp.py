"""The MLP with GRN as one operation: equal to its four layers, on both sides of every choice that a backend makes."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck

from fcmae.sparse.backends import pytorch
from fcmae.sparse.backends.numba.grn_mlp import MANY_SITES
from fcmae.sparse.backends.operations import Backend, MlpWeights
from fcmae.sparse.backends.registry import resolve_backend
from tests.sparse.against_oracle import TOLERANCE, compare

BATCH, DIM, HIDDEN = 3, 4, 9
MANY = MANY_SITES * DIM  # sites of an image from which on GRN goes into the weights; a few less, and it does not


def tensors(sites: int) -> list[Tensor]:
    """Features and weights."""
    return [torch.randn(BATCH * sites, DIM), *weights()]


def weights() -> list[Tensor]:
    return [
        torch.randn(HIDDEN, DIM), torch.randn(HIDDEN), torch.randn(HIDDEN), torch.randn(HIDDEN),
        torch.randn(DIM, HIDDEN), torch.randn(DIM),
    ]  # fmt: skip


def by_definition(x: Tensor, w1: Tensor, b1: Tensor, gamma: Tensor, beta: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """Image by image, with the paper's formulas."""
    out = []
    for image in x.view(BATCH, -1, x.shape[1]):
        wide = F.gelu(image @ w1.t() + b1)
        norm = wide.square().sum(0).sqrt()
        out.append((gamma * wide * (norm / (norm.mean() + 1e-6)) + beta + wide) @ w2.t() + b2)
    return torch.cat(out)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("sites", [1, 2 * DIM - 1, 2 * DIM, MANY - 1, MANY])
def test_it_is_its_four_layers(ops: Backend, sites: int, dtype: torch.dtype) -> None:
    compare(
        lambda x, *w: ops.mlp(x, MlpWeights(*w), BATCH),
        by_definition,
        [torch.randn(BATCH * sites, DIM), *weights()],
        dtype,
    )


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("narrow", [DIM, DIM + 1])
def test_a_weight_gradient_either_way_round(
    ops: Backend, narrow: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcmae.sparse.backends.numba.grn_mlp.NARROW", narrow)
    compare(
        lambda x, *w: ops.mlp(x, MlpWeights(*w), BATCH), by_definition, [torch.randn(BATCH * 3, DIM), *weights()], dtype
    )


def test_numba_chooses_by_the_number_of_sites() -> None:
    """Otherwise the tests of one choice would try the other."""
    for sites, function in ((MANY - 1, "_GRNByKernel"), (MANY, "_GRNInWeights")):
        x = torch.randn(BATCH * sites, DIM, requires_grad=True)
        out = resolve_backend("numba").mlp(x, MlpWeights(*weights()), BATCH)
        assert type(out.grad_fn).__name__ == f"{function}Backward"


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("rows", [None, torch.tensor([4, 0, 7])])
@pytest.mark.parametrize("with_shortcut", [False, True])
def test_without_grn(ops: Backend, rows: Tensor | None, with_shortcut: bool, dtype: torch.dtype) -> None:
    """ConvNeXt V1."""
    w1, b1, _, _, w2, b2 = weights()
    every: Any = slice(None) if rows is None else rows
    shortcut = torch.randn(BATCH * 3, DIM)[every] * with_shortcut

    def mlp(s: Tensor, x: Tensor, *w: Tensor) -> Tensor:
        found = ops.mlp(x, MlpWeights(w[0], w[1], None, None, w[2], w[3]), BATCH, rows, s if with_shortcut else None)
        return found if with_shortcut else found + 0 * s

    def expected(s: Tensor, x: Tensor, *w: Tensor) -> Tensor:
        return with_shortcut * s + (F.gelu(x @ w[0].t() + w[1]) @ w[2].t() + w[3])[every]

    compare(mlp, expected, [shortcut, torch.randn(BATCH * 3, DIM), w1, b1, w2, b2], dtype)


@pytest.mark.parametrize("with_shortcut", [False, True])
def test_without_grn_the_result_may_be_written_to(ops: Backend, with_shortcut: bool) -> None:
    w1, b1, _, _, w2, b2 = weights()
    args = [t.double().requires_grad_() for t in (torch.randn(BATCH * 2, DIM), w1, b1, w2, b2)]

    def doubled(x: Tensor, *w: Tensor) -> Tensor:
        of = MlpWeights(w[0], w[1], None, None, w[2], w[3])
        return ops.mlp(x, of, BATCH, None, x if with_shortcut else None).mul_(2)

    assert gradcheck(doubled, args)


def test_the_hidden_tensors_can_be_seen() -> None:
    """One by one as they arise; without GRN there are two."""
    x, w = torch.randn(BATCH * 3, DIM), MlpWeights(*weights())
    seen: dict[str, Tensor] = {}
    pytorch.mlp(x, w, BATCH, see=seen.__setitem__)
    assert list(seen) == ["expansion", "act", "grn"]
    torch.testing.assert_close(seen["expansion"], x @ w.fc1_weight.t() + w.fc1_bias)
    torch.testing.assert_close(seen["act"], F.gelu(seen["expansion"]))
    torch.testing.assert_close(seen["grn"] @ w.fc2_weight.t() + w.fc2_bias, pytorch.mlp(x, w, BATCH))
    seen.clear()
    pytorch.mlp(x, w._replace(grn_weight=None, grn_bias=None), BATCH, see=seen.__setitem__)
    assert list(seen) == ["expansion", "act"]


@pytest.mark.parametrize("sites", [3, MANY])
@pytest.mark.parametrize("with_shortcut", [False, True])
def test_the_result_may_be_written_to(ops: Backend, sites: int, with_shortcut: bool) -> None:
    x, w = torch.randn(BATCH * sites, DIM, requires_grad=True), weights()
    doubled = ops.mlp(x, MlpWeights(*w), BATCH, None, x if with_shortcut else None).mul_(2)
    expected = 2 * (by_definition(x, *w) + (x if with_shortcut else 0))
    torch.testing.assert_close(doubled, expected, atol=1e-5, rtol=1e-5)
    got, want = (torch.autograd.grad(y.sum(), x)[0] for y in (doubled, expected))
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sites", [3, MANY])
def test_shortcuts_of_any_layout_and_without_a_gradient(ops: Backend, sites: int) -> None:
    x, w = torch.randn(BATCH * sites, DIM), weights()
    w[4].requires_grad_()
    for shortcut in (torch.randn(DIM).expand(len(x), DIM), torch.randn(DIM, len(x)).t()):
        out = ops.mlp(x, MlpWeights(*w), BATCH, None, shortcut)
        torch.testing.assert_close(out, shortcut + by_definition(x, *w), atol=1e-5, rtol=1e-5)
        out.sum().backward()
        assert shortcut.grad is None


@pytest.mark.parametrize("sites", [3, MANY])
def test_gradcheck(ops: Backend, sites: int) -> None:
    args = [t.double().requires_grad_() for t in (torch.randn(BATCH * sites, DIM), *weights())]
    assert gradcheck(lambda *a: ops.mlp(a[0], MlpWeights(*a[1:]), BATCH), args)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("sites", [2 * DIM - 1, 2 * DIM])
def test_some_rows_of_it(ops: Backend, sites: int, dtype: torch.dtype) -> None:
    """In any order, and of one image none; every site counts in the norm."""
    rows = torch.tensor([2, 0, sites + 1, sites - 1])
    tensors = [torch.randn(BATCH * sites, DIM), *weights()]
    compare(
        lambda x, *w: ops.mlp(x, MlpWeights(*w), BATCH, rows), lambda x, *w: by_definition(x, *w)[rows], tensors, dtype
    )


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("sites", "rows"), [(3, None), (MANY, None), (MANY, torch.tensor([2, 0, 17]))])
def test_a_shortcut_is_added(ops: Backend, sites: int, rows: Tensor | None, dtype: torch.dtype) -> None:
    """And left as it was."""
    shortcut = torch.randn(BATCH * sites if rows is None else len(rows), DIM)
    before = shortcut.clone()
    args = [shortcut, *tensors(sites)]
    every = slice(None) if rows is None else rows

    def expected(s: Tensor, x: Tensor, *w: Tensor) -> Tensor:
        return s + by_definition(x, *w)[every]

    compare(lambda s, x, *w: ops.mlp(x, MlpWeights(*w), BATCH, rows, s), expected, args, dtype)
    assert torch.equal(shortcut, before)
    for wrong in (shortcut[:1], shortcut[0]):
        with pytest.raises(ValueError, match="the shortcut must be"):
            ops.mlp(args[1], MlpWeights(*args[2:]), BATCH, rows, wrong)


def test_no_rows_of_it(ops: Backend) -> None:
    args = [t.requires_grad_() for t in (torch.randn(BATCH * 2, DIM), *weights())]
    out = ops.mlp(args[0], MlpWeights(*args[1:]), BATCH, torch.empty(0, dtype=torch.int64))
    assert out.shape == (0, DIM)
    assert all((g == 0).all() for g in torch.autograd.grad(out.sum(), args))


@pytest.mark.parametrize("sites", [3, MANY])
def test_only_parameters_that_are_trained_get_gradients(ops: Backend, sites: int) -> None:
    x, w = torch.randn(BATCH * sites, DIM), weights()
    w[4].requires_grad_()
    ops.mlp(x, MlpWeights(*w), BATCH).sum().backward()
    assert w[4].grad is not None
    assert all(t.grad is None for t in (x, *w[:4], w[5]))


def test_shapes_that_do_not_fit_are_refused(ops: Backend) -> None:
    x, w = torch.randn(BATCH * MANY, DIM), weights()
    for number, value in (
        (1, None), (5, None), (1, torch.zeros(1)), (2, torch.zeros(1)), (3, torch.zeros(HIDDEN, 1)),
    ):  # fmt: skip
        wrong = [value if i == number else t for i, t in enumerate(w)]
        with pytest.raises(ValueError, match=r"need a bias|must be"):
            ops.mlp(x, MlpWeights(*wrong), BATCH)


@pytest.mark.parametrize("sites", [3, MANY])
def test_features_that_are_not_contiguous_and_a_gradient_that_is_not(ops: Backend, sites: int) -> None:
    x = torch.randn(DIM, BATCH * sites).t()
    compare(
        lambda x, *w: ops.mlp(x, MlpWeights(*w), BATCH).t().contiguous().t(),
        by_definition,
        [x, *weights()],
        torch.float32,
    )


@pytest.mark.parametrize("sites", [3, MANY])
def test_dead_channels_have_finite_gradients(ops: Backend, sites: int) -> None:
    """GELU(−∞ …) is 0: a channel that is 0 at every site has no norm to divide by."""
    w = weights()
    w[0][0], w[1][0] = 0, -1e4
    args = [t.requires_grad_() for t in (torch.randn(BATCH * sites, DIM), *w)]
    out = ops.mlp(args[0], MlpWeights(*args[1:]), BATCH)
    assert out.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(out.square().sum(), args))


def test_autocast_computes_in_bfloat16(ops: Backend) -> None:
    x, w = torch.randn(BATCH * MANY, DIM), weights()
    with torch.autocast("cpu", torch.bfloat16):
        out = ops.mlp(x, MlpWeights(*w), BATCH)
        with_shortcut = ops.mlp(x, MlpWeights(*w), BATCH, None, x)
    assert out.dtype == torch.bfloat16
    assert with_shortcut.dtype == torch.float32
    torch.testing.assert_close(with_shortcut, x + out, atol=0.01, rtol=0.01)
    torch.testing.assert_close(out.float(), by_definition(x, *w), atol=0.5, rtol=0.05)

"""The MLP with GRN as one function: equal to its four layers, whatever the chunks, and on both sides of the choice."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck

from fcmae.sparse import compiled, grn_mlp
from fcmae.sparse.mlp_compiled import MANY_SITES
from tests.sparse.against_oracle import TOLERANCE, compare

pytestmark = pytest.mark.usefixtures("_loops")

BATCH, DIM, HIDDEN = 3, 4, 9
MANY = MANY_SITES * DIM  # sites of an image from which on GRN goes into the weights; a few less, and it does not


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
@pytest.mark.parametrize("chunk_bytes", [1, 1000, 1 << 20])  # one image at a time, two and one, all at once
@pytest.mark.parametrize("sites", [1, 2 * DIM - 1, 2 * DIM, MANY - 1, MANY])
def test_it_is_its_four_layers(
    sites: int, chunk_bytes: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcmae.sparse.mlp_by_image.CHUNK_BYTES", chunk_bytes)
    compare(lambda x, *w: grn_mlp(x, *w, BATCH), by_definition, [torch.randn(BATCH * sites, DIM), *weights()], dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("narrow", [DIM, DIM + 1])
def test_a_weight_gradient_either_way_round(narrow: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcmae.sparse.mlp_compiled.NARROW", narrow)
    compare(lambda x, *w: grn_mlp(x, *w, BATCH), by_definition, [torch.randn(BATCH * 3, DIM), *weights()], dtype)


def test_the_way_it_goes_depends_on_the_number_of_sites() -> None:
    """Else the tests of one way would try the other."""
    numba = compiled.loops_for(torch.zeros(1)) is not None
    ways = ("_MlpByLoops", "_GRNInWeights") if numba else ("_GRNMlp", "_GRNMlp")
    for sites, way in zip((MANY - 1, MANY), ways, strict=True):
        out = grn_mlp(torch.randn(BATCH * sites, DIM, requires_grad=True), *weights(), BATCH)
        assert type(out.grad_fn).__name__ == f"{way}Backward"


@pytest.mark.parametrize("sites", [3, MANY])
@pytest.mark.parametrize("with_shortcut", [False, True])
def test_the_result_may_be_written_to(sites: int, with_shortcut: bool) -> None:
    x, w = torch.randn(BATCH * sites, DIM, requires_grad=True), weights()
    doubled = grn_mlp(x, *w, BATCH, None, x if with_shortcut else None).mul_(2)
    expected = 2 * (by_definition(x, *w) + (x if with_shortcut else 0))
    torch.testing.assert_close(doubled, expected, atol=1e-5, rtol=1e-5)
    got, want = (torch.autograd.grad(y.sum(), x)[0] for y in (doubled, expected))
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sites", [3, MANY])
def test_shortcuts_of_any_layout_and_without_a_gradient(sites: int) -> None:
    x, w = torch.randn(BATCH * sites, DIM), weights()
    w[4].requires_grad_()
    for shortcut in (torch.randn(DIM).expand(len(x), DIM), torch.randn(DIM, len(x)).t()):
        out = grn_mlp(x, *w, BATCH, None, shortcut)
        torch.testing.assert_close(out, shortcut + by_definition(x, *w), atol=1e-5, rtol=1e-5)
        out.sum().backward()
        assert shortcut.grad is None


@pytest.mark.parametrize("sites", [3, MANY])
def test_gradcheck(sites: int) -> None:
    args = [t.double().requires_grad_() for t in (torch.randn(BATCH * sites, DIM), *weights())]
    assert gradcheck(lambda *a: grn_mlp(*a, BATCH), args)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("sites", [2 * DIM - 1, 2 * DIM])
def test_some_rows_of_it(sites: int, dtype: torch.dtype) -> None:
    """In any order, and of one image none; every site counts in the norm."""
    rows = torch.tensor([2, 0, sites + 1, sites - 1])
    tensors = [torch.randn(BATCH * sites, DIM), *weights()]
    compare(lambda x, *w: grn_mlp(x, *w, BATCH, rows), lambda x, *w: by_definition(x, *w)[rows], tensors, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("sites", "rows"), [(3, None), (MANY, None), (MANY, torch.tensor([2, 0, 17]))])
def test_a_shortcut_is_added(sites: int, rows: Tensor | None, dtype: torch.dtype) -> None:
    """And left as it was."""
    shortcut = torch.randn(BATCH * sites if rows is None else len(rows), DIM)
    before = shortcut.clone()
    tensors = [shortcut, torch.randn(BATCH * sites, DIM), *weights()]
    every = slice(None) if rows is None else rows

    def expected(s: Tensor, x: Tensor, *w: Tensor) -> Tensor:
        return s + by_definition(x, *w)[every]

    compare(lambda s, x, *w: grn_mlp(x, *w, BATCH, rows, s), expected, tensors, dtype)
    assert torch.equal(shortcut, before)
    for wrong in (shortcut[:1], shortcut[0]):
        with pytest.raises(ValueError, match="the shortcut must be"):
            grn_mlp(*tensors[1:], BATCH, rows, wrong)


def test_no_rows_of_it() -> None:
    args = [t.requires_grad_() for t in (torch.randn(BATCH * 2, DIM), *weights())]
    out = grn_mlp(*args, BATCH, torch.empty(0, dtype=torch.int64))
    assert out.shape == (0, DIM)
    assert all((g == 0).all() for g in torch.autograd.grad(out.sum(), args))


@pytest.mark.parametrize("sites", [3, MANY])
def test_only_parameters_that_are_trained_get_gradients(sites: int) -> None:
    x, w = torch.randn(BATCH * sites, DIM), weights()
    w[4].requires_grad_()
    grn_mlp(x, *w, BATCH).sum().backward()
    assert w[4].grad is not None
    assert all(t.grad is None for t in (x, *w[:4], w[5]))


def test_shapes_that_do_not_fit_are_refused() -> None:
    x, w = torch.randn(BATCH * MANY, DIM), weights()
    for number, value in (
        (1, None), (5, None), (1, torch.zeros(1)), (2, torch.zeros(1)), (3, torch.zeros(HIDDEN, 1)),
    ):  # fmt: skip
        wrong = [value if i == number else t for i, t in enumerate(w)]
        with pytest.raises(ValueError, match=r"need a bias|must be"):
            grn_mlp(x, *wrong, BATCH)


@pytest.mark.parametrize("sites", [3, MANY])
def test_features_that_are_not_contiguous_and_a_gradient_that_is_not(sites: int) -> None:
    x = torch.randn(DIM, BATCH * sites).t()
    compare(lambda x, *w: grn_mlp(x, *w, BATCH).t().contiguous().t(), by_definition, [x, *weights()], torch.float32)


@pytest.mark.parametrize("sites", [3, MANY])
def test_dead_channels_have_finite_gradients(sites: int) -> None:
    """GELU(−∞ …) is 0: a channel that is 0 at every site has no norm to divide by."""
    w = weights()
    w[0][0], w[1][0] = 0, -1e4
    args = [t.requires_grad_() for t in (torch.randn(BATCH * sites, DIM), *w)]
    out = grn_mlp(*args, BATCH)
    assert out.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(out.square().sum(), args))


def test_autocast_computes_in_bfloat16() -> None:
    x, w = torch.randn(BATCH * MANY, DIM), weights()
    with torch.autocast("cpu", torch.bfloat16):
        out = grn_mlp(x, *w, BATCH)
        with_shortcut = grn_mlp(x, *w, BATCH, None, x)
    assert out.dtype == torch.bfloat16
    assert with_shortcut.dtype == torch.float32
    torch.testing.assert_close(with_shortcut, x + out, atol=0.01, rtol=0.01)
    torch.testing.assert_close(out.float(), by_definition(x, *w), atol=0.5, rtol=0.05)

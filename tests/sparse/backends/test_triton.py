"""The Triton backend: tilings, operators, torch.compile, determinism; in Triton's interpreter where there is no GPU."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import triton
from torch import Tensor
from torch.library import CustomOpDef
from triton.runtime import interpreter

from fcmae.sparse import ActiveSites, Backend, MlpWeights, densify, gather_sites, resolve_backend
from fcmae.sparse import reference as ref
from fcmae.sparse.backends import pytorch
from fcmae.sparse.backends.triton import depthwise, gelu_grn, grn_mlp, grn_weights, launch, neighbors, norm, patches
from tests.conftest import GRIDS, random_visible
from tests.sparse.against_oracle import compare

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def gpu_tiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut as on a GPU: several programs, blocks and parts where the interpreter would take one."""
    for module in (depthwise, gelu_grn, grn_weights, launch, neighbors, norm):
        for name, as_on_gpu in (("interpreting", lambda: False), ("many_or", lambda number, *_: number)):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, as_on_gpu)
    for module in (depthwise, launch):  # still: the kernels themselves run where they can
        monkeypatch.setattr(module, "missing_on", lambda _: None)


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is allocated without values holds NaN, or the number of no patch: a gap in a kernel shows."""
    empty, empty_like, new_empty = torch.empty, torch.empty_like, Tensor.new_empty

    def fill(tensor: Tensor) -> Tensor:
        return tensor.fill_(torch.nan if tensor.is_floating_point() else 2**30)

    monkeypatch.setattr(torch, "empty", lambda *a, **k: fill(empty(*a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: fill(empty_like(*a, **k)))
    monkeypatch.setattr(Tensor, "new_empty", lambda *a, **k: fill(new_empty(*a, **k)))


def randn(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn(shape, device=DEVICE) for shape in shapes]


def conv_and_oracle(visible: Tensor, side: int) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    sites = ActiveSites(visible)
    return (
        lambda x, w, b: depthwise.depthwise_conv(x, w, b, sites, side),
        lambda x, w, b: gather_sites(ref.depthwise_conv(densify(x, sites, side), w, b, visible, side), sites, side),
    )


@pytest.mark.parametrize("size", [1, 3, 7, 9])
@pytest.mark.parametrize("side", [1, 2, 4, 8])
@pytest.mark.parametrize("grid", GRIDS)
def test_neighbors_are_the_visible_patches_around(grid: tuple[int, int, int, int], side: int, size: int) -> None:
    """table[n, dy, dx] is the patch at that offset from patch n, or −1; near lists those there are."""
    visible = random_visible(*grid)
    sites = ActiveSites(visible.to(DEVICE))
    table, near, count = (t.cpu() for t in neighbors.neighbors_of(sites, side, size))
    reach = -(-(size // 2) // side)
    place_of = visible.nonzero().tolist()
    for patch, (image, y, x) in enumerate(place_of):
        around = [[image, y + dy, x + dx] for dy in range(-reach, reach + 1) for dx in range(-reach, reach + 1)]
        expected = [place_of.index(place) if place in place_of else -1 for place in around]
        assert table[patch].tolist() == expected
        listed = [[slot, offset] for offset, slot in enumerate(expected) if slot >= 0]
        assert near[patch, : count[patch]].tolist() == listed


def test_neighbors_are_made_once_for_a_reach() -> None:
    sites = ActiveSites(random_visible(2, 3, 3, 4).to(DEVICE))
    assert neighbors.neighbors_of(sites, 8, 7) is neighbors.neighbors_of(sites, 4, 7)
    assert neighbors.neighbors_of(sites, 8, 7) is not neighbors.neighbors_of(sites, 2, 7)


@pytest.mark.usefixtures("gpu_tiling", "poisoned")
@pytest.mark.parametrize(
    ("side", "size", "channels"), [(8, 3, 5), (4, 5, 17), (2, 3, 19), (1, 7, 70), (2, 9, 3), (16, 3, 2)]
)
def test_convolution_cut_as_on_a_gpu(side: int, size: int, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several programs and blocks that do not come out even, chunks of several patches and of less in wgrad."""
    monkeypatch.setattr(depthwise, "WGRAD_PROGRAMS", 2)
    visible = random_visible(1, 2, 3, 3).to(DEVICE)
    rows = 3 * side * side
    conv, oracle = conv_and_oracle(visible, side)
    compare(
        lambda x, w, b: conv(x.t().contiguous().t(), w, b),
        oracle,
        randn((rows, channels), (channels, 1, size, size), (channels,)),
        torch.float32,
    )


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("side", [1, 2, 4, 8])
def test_convolution_in_every_dtype(side: int, dtype: torch.dtype) -> None:
    visible = random_visible(2, 2, 3, 4).to(DEVICE)
    tensors = randn((8 * side * side, 6), (6, 1, 7, 7), (6,))
    compare(*conv_and_oracle(visible, side), tensors, dtype)


def mlp_tensors(batch: int, sites: int, dim: int, hidden: int, out: int) -> list[Tensor]:
    return randn((batch * sites, dim), (hidden, dim), (hidden,), (hidden,), (hidden,), (out, hidden), (out,))


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


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "channels"), [(1, 3), (70, 8), (50, 96), (9, 530), (3, 2049)])
def test_layer_norm(rows: int, channels: int, dtype: torch.dtype, cut: bool, request: pytest.FixtureRequest) -> None:
    """Also of a row that is constant."""
    if cut:
        if dtype != torch.float32:
            return
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


@pytest.fixture
def rounding_to_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    """As GPUs round float32 to bfloat16; the interpreter cuts bits off, which is twice as far off and leans to 0."""
    before = interpreter._convert_float

    def convert(values: Any, source: Any, target: Any, rounding_mode: Any) -> Any:
        if (source, target) != (triton.language.float32, triton.language.bfloat16):
            return before(values, source, target, rounding_mode)
        return torch.from_numpy(values.view("float32")).bfloat16().view(torch.int16).numpy().view("uint16")

    monkeypatch.setattr(interpreter, "_convert_float", convert)


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


def steps() -> Iterator[tuple[Callable[..., Tensor], list[Tensor]]]:
    """Each operation with its arguments."""
    sites = ActiveSites(random_visible(2, 2, 3, 3).to(DEVICE))
    for side in (1, 4):
        rows = sites.num_sites(side)
        yield lambda x, w, b, s=side: depthwise.depthwise_conv(x, w, b, sites, s), randn((rows, 4), (4, 1, 3, 3), (4,))
    yield lambda x, w, b: norm.layer_norm(x, w, b, 1e-6), randn((20, 6), (6,), (6,))
    for count in (3, 16):
        yield lambda x, *w: grn_mlp.mlp(x, MlpWeights(*w), 2), mlp_tensors(2, count, 4, 9, 4)


@pytest.mark.usefixtures("gpu_tiling")
def test_equal_bit_for_bit_every_time() -> None:
    for run, args in steps():
        tensors = [t.requires_grad_() for t in args]
        first, second = (
            [out, *torch.autograd.grad(out.square().sum(), tensors)] for out in (run(*tensors), run(*tensors))
        )
        for a, b in zip(first, second, strict=True):
            assert torch.equal(a, b)


def test_compiles_without_a_break() -> None:
    for run, args in steps():
        tensors = [t.requires_grad_() for t in args]
        compiled = torch.compile(lambda *a, run=run: run(*a).square().sum(), backend="aot_eager", fullgraph=True)
        expected = torch.autograd.grad(run(*tensors).square().sum(), tensors)
        torch.testing.assert_close(torch.autograd.grad(compiled(*tensors), tensors), expected)


def test_operators_are_what_torch_expects_of_operators() -> None:
    """Schema, fake implementation and autograd registration, so that torch.compile may trace through them."""
    checked = set()

    def check(operator: CustomOpDef, args: tuple, **options: Any) -> None:
        checked.add(operator)
        torch.library.opcheck(operator, args, **options)

    sites = ActiveSites(random_visible(2, 2, 3, 3).to(DEVICE))
    places = sites.patches.flatten().int()
    # what follows the last neighbor is undefined, so two results are not equal: schema and fake implementation alone
    check(neighbors._neighbors_op, (places, sites.patch_slot(), 1), test_utils=("test_schema", "test_faketensor"))
    index = neighbors.neighbors_of(sites, 2, 3)
    x, taps, bias = (t.requires_grad_() for t in randn((24, 4), (9, 4), (4,)))
    check(depthwise._convolve_op, (x, taps, bias, *index, 2, False))
    check(depthwise._wgrad_op, (x.detach(), x.detach(), index.table, 2, 3))
    weight = torch.randn(4, device=DEVICE, requires_grad=True)
    check(norm._forward_op, (x, weight, bias, 1e-6))
    check(norm._backward_op, (x.detach(), x.detach(), weight.detach(), *randn((24,), (24,))))
    h, b1, gamma, beta, w2, b2 = (t.requires_grad_() for t in randn((8, 9), (9,), (9,), (9,), (3, 9), (3,)))
    check(gelu_grn.gelu_grn_op, (h, b1, gamma, beta, 2))
    check(gelu_grn.gelu_grn_linear_op, (h, b1, gamma, beta, w2, b2, None, 2))
    check(gelu_grn.gelu_grn_linear_op, (h, b1, gamma, beta, w2, b2, torch.randn(8, 3, device=DEVICE), 2))
    saved = [t.detach() for t in (h, h, b1, gamma)]
    check(gelu_grn.gelu_grn_grad_op, (*saved, torch.rand(2, 9, device=DEVICE), None))
    check(gelu_grn.gelu_grn_grad_op, (*saved, *torch.rand(2, 2, 9, device=DEVICE)))
    images = torch.randn(2, 3, 16, 24, device=DEVICE)
    check(patches._stem_rows_op, (images, sites.patches, 2, 4, torch.bfloat16))
    check(patches._patch_pixels_op, (images, sites.patches, 8, 1e-6))
    check(grn_weights.grn_weights_grad_op, randn((2, 3, 9), (3, 9), (2, 9)))
    modules = (depthwise, gelu_grn, grn_weights, neighbors, norm, patches)
    assert checked == {op for module in modules for op in vars(module).values() if isinstance(op, CustomOpDef)}


def test_float64_is_pytorchs() -> None:
    """A network with ``auto`` has this backend on a GPU, whatever its type."""
    sites = ActiveSites(random_visible(2, 2, 2, 1))
    inputs = torch.randn(sites.num_sites(2), 3).double(), torch.randn(3, 1, 3, 3).double(), torch.randn(3).double()
    results = []
    for operation in (depthwise.depthwise_conv, pytorch.depthwise_conv):
        leaves = [t.clone().requires_grad_() for t in inputs]
        out = operation(*leaves, sites, 2)
        results.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == torch.float64
        assert torch.equal(ours, theirs)


def test_says_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    sites = ActiveSites(random_visible(1, 2, 2, 1))
    x, weight = torch.randn(sites.num_sites(2), 3), torch.randn(3, 1, 3, 3)
    with pytest.raises(ValueError, match="must be of one type"):
        depthwise.depthwise_conv(x, weight.half(), None, sites, 2)
    with monkeypatch.context() as patch:
        patch.setattr(depthwise, "MAX_ROWS", 3)
        with pytest.raises(ValueError, match="at most 3 rows, got 4"):
            depthwise.depthwise_conv(x, weight, None, sites, 2)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ValueError, match="the triton backend needs a GPU; take backend 'torch'"):
        depthwise.depthwise_conv(x, weight, None, sites, 2)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(
    ("side", "stride", "channels", "dtype"),
    [
        (8, 4, 3, torch.float32),
        (4, 1, 33, torch.float32),
        (1, 8, 5, torch.float32),
        (2, 2, 1, torch.bfloat16),
        (2, 2, 1, torch.float16),
    ],
)
def test_pixels_of_patches(
    side: int, stride: int, channels: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As PyTorch's, for visible and masked patches, on oblong grids, and of patches larger than a block."""
    monkeypatch.setattr(patches, "LARGEST_BLOCK", 512)
    sites, size = ActiveSites(random_visible(2, 2, 3, 4).to(DEVICE)), side * stride
    images = torch.randn(2, channels, 2 * size, 3 * size, device=DEVICE).to(dtype)
    masked = sites.complement().visible.repeat_interleave(size, 1).repeat_interleave(size, 2)
    unread = images.masked_fill(masked[:, None], torch.nan)
    assert torch.equal(patches.stem_rows(unread, sites, side, stride), pytorch.stem_rows(images, sites, side, stride))
    for chosen in (sites, sites.complement(), ActiveSites.full(2, 2, 3, images.device)):
        for eps in (None, 1e-6):
            expected = pytorch.patch_pixels(images, chosen, size, eps)
            got = patches.patch_pixels(images.transpose(2, 3).contiguous().transpose(2, 3), chosen, size, eps)
            torch.testing.assert_close(got, expected)


@pytest.mark.usefixtures("rounding_to_nearest")
def test_pixels_of_patches_call_pytorch_where_the_kernels_cannot_run() -> None:
    """A gradient to the image, float64, no patch at all; under autocast the stem's rows are what its product reads."""
    sites = ActiveSites(random_visible(1, 1, 2, 1).to(DEVICE))
    images = torch.randn(1, 3, 8, 16, device=DEVICE, requires_grad=True)
    rows, targets = patches.stem_rows(images, sites, 2, 4), patches.patch_pixels(images, sites, 8, 1e-6)
    assert all(t is not None for t in torch.autograd.grad(rows.sum() + targets.square().sum(), images))
    wide = images.detach().double()
    assert (
        patches.stem_rows(wide, sites, 2, 4).dtype == patches.patch_pixels(wide, sites, 8, None).dtype == torch.float64
    )
    none = ActiveSites.full(1, 1, 2, images.device).complement()
    assert patches.patch_pixels(images.detach(), none, 8, None).shape == (0, 192)
    with torch.autocast(DEVICE, torch.bfloat16):
        low = patches.stem_rows(images.detach(), sites, 2, 4)
    assert torch.equal(low, rows.detach().bfloat16())
    with pytest.raises(ValueError, match="do not fit"):
        patches.stem_rows(images.detach(), sites, 2, 2)
    with pytest.raises(ValueError, match="do not fit"):
        patches.patch_pixels(images.detach(), sites, 4, None)

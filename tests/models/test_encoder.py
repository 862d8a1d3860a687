"""The sparse encoder against the literal oracle, against timm, and against what masking promises."""

import traceback
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import timm
import torch
from torch import Tensor, nn

import fcmae
import fcmae.models.isotropic  # registers names with timm
from fcmae.models import ModelConfig, SparseConvNeXt, create_model, sizes
from fcmae.models.outline import outlined
from fcmae.sparse.backends.numba import depthwise as numba_depthwise
from fcmae.sparse.backends.triton import depthwise as triton_depthwise
from fcmae.sparse.sites import ActiveSites
from tests.conftest import BACKENDS, GRIDS, random_visible
from tests.models.dense_oracle import encode

# small enough for the literal oracle in float64, and still the real depths of a real size
SMALL = "convnextv2_atto"
# Random numbers for a weight; a larger one holds them again and again. A prime, so that no two rows are the same.
POOL = 1_000_003


def randomize(module: nn.Module) -> None:
    """Give every parameter a value that matters: GRN and LayerScale start at almost nothing, which hides mistakes."""
    for name, parameter in module.named_parameters():
        if name.endswith(("grn.weight", "grn.bias", "gamma")):
            nn.init.normal_(parameter, std=0.5)
        elif parameter.ndim == 1:
            nn.init.normal_(parameter, mean=float("norm" in name or name == "stem.1.weight"), std=0.1)
        else:
            pool = torch.randn(min(parameter.numel(), POOL)) * parameter[0].numel() ** -0.5
            for part in parameter.detach().view(-1).split(len(pool)):
                part.copy_(pool[: len(part)])


def assert_equal_to_oracle(encoder: SparseConvNeXt, images: Tensor, visible: Tensor, tolerance: float) -> None:
    """Outputs and every parameter's gradient; the oracle always runs in float64."""
    out = encoder(images, visible)
    state = {k: v.detach().double().requires_grad_() for k, v in encoder.named_parameters()}
    expected = encode(state, images.double(), visible)
    dy = torch.randn_like(expected)
    got = torch.autograd.grad(out, list(encoder.parameters()), dy.to(out.dtype))
    want = torch.autograd.grad(expected, list(state.values()), dy)
    pairs = {"output": (out, expected)} | dict(zip(state, zip(got, want, strict=True), strict=True))
    for name, (g, w) in pairs.items():
        assert g.isfinite().all(), name
        # relative to the gradient's own size; a gradient that is exactly zero by symmetry is compared absolutely
        error, size = float((g.detach().double() - w.detach()).norm()), float(w.detach().norm())
        assert error <= tolerance * max(size, 1e-3), name


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("stem_stride", [1, 4])
def test_encoder_is_the_masked_dense_network(grid: tuple[int, int, int, int], stem_stride: int) -> None:
    """float64, 1e-10: outputs and all gradients, on oblong grids, a 1×1 grid, K = 1, K = all, a batch of 1."""
    config = ModelConfig(SMALL, stem_stride=stem_stride, in_chans=2)
    encoder = SparseConvNeXt(config).double()
    randomize(encoder)
    visible = random_visible(*grid)
    batch, height, width, _ = grid
    images = torch.randn(batch, 2, height * config.patch_size, width * config.patch_size, dtype=torch.float64)
    assert_equal_to_oracle(encoder, images, visible, 1e-10)


@pytest.mark.parametrize("options", [{}, {"use_grn": False, "use_layer_scale": True, "ls_init_value": 0.3}])
@pytest.mark.parametrize("grid", GRIDS)
def test_the_baseline_is_the_masked_dense_network(grid: tuple[int, int, int, int], options: dict) -> None:
    encoder = SparseConvNeXt(ModelConfig(SMALL, stem_stride=2, backend="masked", **options)).double()
    randomize(encoder)
    batch, height, width, _ = grid
    images = torch.randn(batch, 3, height * 16, width * 16, dtype=torch.float64)
    assert_equal_to_oracle(encoder, images, random_visible(*grid), 1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_compute_the_same_network(backend: str) -> None:
    """Forward and every gradient, float32, through all stages; one block a stage, for the interpreter is slow."""
    size = sizes.Size((1, 1, 1, 1), (4, 8, 12, 16))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sizes.SIZES, SMALL, size)
        encoder = SparseConvNeXt(ModelConfig(SMALL, stem_stride=1, backend=backend))
    randomize(encoder)
    device = "cuda" if backend == "triton" and torch.cuda.is_available() else "cpu"
    images, visible = torch.randn(2, 3, 16, 24, device=device), random_visible(2, 2, 3, 3).to(device)
    assert_equal_to_oracle(encoder.to(device), images, visible, 1e-4)


@pytest.mark.parametrize("backend", ["numba", "torch", "masked"])
def test_recomputed_stages_give_the_same_gradients(backend: str) -> None:
    """Bit for bit, with drop path, and what is kept for the backward pass shrinks."""
    images, visible = torch.randn(2, 3, 64, 64), random_visible(2, 4, 4, 6)
    results, kept = [], []
    for stages in ((), (0, 2)):
        torch.manual_seed(0)
        options = {"drop_path_rate": 0.5, "checkpoint_stages": stages, "backend": backend}
        encoder = SparseConvNeXt(ModelConfig(SMALL, stem_stride=2, **options))
        sizes_of_saved: list[int] = []

        def pack(tensor: Tensor) -> Tensor:
            sizes_of_saved.append(tensor.numel())  # noqa: B023  # read in this round
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = encoder(images, visible)
        kept.append(sum(sizes_of_saved))
        results.append((out.detach(), *torch.autograd.grad(out.square().sum(), list(encoder.parameters()))))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
    assert kept[1] < 0.6 * kept[0]


@pytest.mark.parametrize("options", [{}, {"use_grn": False}, {"use_layer_scale": True, "ls_init_value": 0.3}])
def test_ablations_are_the_masked_dense_network(options: dict) -> None:
    encoder = SparseConvNeXt(ModelConfig(SMALL, stem_stride=2, **options)).double()
    randomize(encoder)
    names = "".join(dict(encoder.named_parameters()))
    assert ("grn" in names) == options.get("use_grn", True)
    assert ("gamma" in names) == options.get("use_layer_scale", False)
    images = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    assert_equal_to_oracle(encoder, images, random_visible(2, 2, 3, 3), 1e-10)


def test_float32_is_within_1e_4_of_the_oracle() -> None:
    encoder = SparseConvNeXt(ModelConfig("convnextv2_atto"))
    randomize(encoder)
    assert_equal_to_oracle(encoder, torch.randn(2, 3, 96, 128), random_visible(2, 3, 4, 5), 1e-4)


@pytest.mark.parametrize("name", fcmae.list_models())
def test_all_visible_equals_timm(name: str) -> None:
    """The encoder's state dict loads strictly but for the head's norm, and gives timm's features; every size."""
    with outlined():  # no time spent on initial weights that are drawn anew below
        encoder = SparseConvNeXt(ModelConfig(name)).eval()
        dense = timm.create_model(name, num_classes=0).eval()
    encoder.to_empty(device="cpu")
    dense.to_empty(device="cpu")
    with torch.no_grad():
        randomize(encoder)
        loaded = dense.load_state_dict(encoder.state_dict(), strict=False, assign=True)
        assert loaded.unexpected_keys == []
        assert loaded.missing_keys == ["head.norm.weight", "head.norm.bias"]
        images, patch = torch.randn(1, 3, 64, 96), encoder.patch_size
        visible = torch.ones(1, 64 // patch, 96 // patch, dtype=torch.bool)
        got, expected = encoder(images, visible), dense.forward_features(images)
    assert got.shape == expected.shape
    assert (got - expected).norm() < 1e-4 * expected.norm()


def test_masked_pixels_have_no_influence_at_all() -> None:
    """Bitwise: other pixels, infinities or NaN where masked leave every output bit as it was, and its zeros zero."""
    encoder = SparseConvNeXt(ModelConfig(SMALL))
    randomize(encoder)
    visible = random_visible(2, 3, 4, 5)
    images = torch.randn(2, 3, 96, 128)
    masked = ~visible.repeat_interleave(32, 1).repeat_interleave(32, 2).unsqueeze(1).expand_as(images)
    out = encoder(images, visible)
    assert torch.equal(out.permute(0, 2, 3, 1)[~visible], torch.zeros(14, 320))
    for junk in (
        torch.randn_like(images) * 1e6,
        torch.full_like(images, torch.inf),
        torch.full_like(images, torch.nan),
    ):
        assert torch.equal(encoder(torch.where(masked, junk, images), visible), out)


def test_images_of_a_batch_do_not_mix() -> None:
    """Bitwise: other companions in the batch leave an image's output as it was (official GRN mixes them)."""
    encoder = SparseConvNeXt(ModelConfig(SMALL))
    randomize(encoder)
    images, visible = torch.randn(3, 3, 96, 96), random_visible(3, 3, 3, 4)
    out = encoder(images, visible)
    others = torch.cat([images[:1], 100 * torch.randn(2, 3, 96, 96)])
    other_visible = torch.cat([visible[:1], random_visible(2, 3, 3, 4)])
    assert torch.equal(encoder(others, other_visible)[0], out[0])
    alone = encoder(images[:1], visible[:1])[0]  # another batch size may take another GEMM kernel: equal to rounding
    torch.testing.assert_close(alone, out[0], rtol=1e-4, atol=1e-5)


def test_a_visible_pixel_does_have_influence() -> None:
    """The converse of the above: every visible patch reaches the output."""
    encoder = SparseConvNeXt(ModelConfig(SMALL))
    randomize(encoder)
    images = torch.randn(1, 3, 64, 64, requires_grad=True)
    visible = torch.tensor([[[True, False], [True, True]]])
    grad = torch.autograd.grad(encoder(images, visible).square().sum(), images)[0].abs().sum(1)
    per_patch = grad.unflatten(2, (2, 32)).unflatten(1, (2, 32)).sum((2, 4))
    assert torch.equal(per_patch > 0, visible)


def test_drop_path_drops_whole_images_in_training_only() -> None:
    encoder = SparseConvNeXt(ModelConfig(SMALL, drop_path_rate=0.5))
    randomize(encoder)
    images, visible = torch.randn(2, 3, 64, 64), random_visible(2, 2, 2, 2)
    assert not torch.equal(encoder(images, visible), encoder(images, visible))
    encoder.eval()
    assert torch.equal(encoder(images, visible), encoder(images, visible))
    block = encoder.stages[3].blocks[1].train()
    x = torch.randn(8, 320)
    delta = (block(x, ActiveSites(random_visible(8, 1, 1, 1)), 1) - x).abs().sum(1)
    assert 0 < int((delta == 0).sum()) < 8


def test_wrong_inputs_show_both_numbers() -> None:
    encoder = SparseConvNeXt(ModelConfig(SMALL))
    visible = random_visible(2, 2, 2, 2)
    with pytest.raises(ValueError, match=r"\[2, 3, 64, 65\] do not fit visible \[2, 2, 2\].*\[2, C, 64, 64\]"):
        encoder(torch.randn(2, 3, 64, 65), visible)
    with pytest.raises(ValueError, match="takes images of 3 channels, got 1"):
        encoder(torch.randn(2, 1, 64, 64), visible)


def test_moving_a_network_chooses_its_backend_anew() -> None:
    """For the device that it is on then, in all its layers; a name that was asked for stays."""
    with outlined():
        model = create_model(SMALL, img_size=32)
    assert model.encoder.ops.name == model.decoder.ops.name == "torch"
    model.to_empty(device="cpu")
    layers = [module for module in model.modules() if hasattr(module, "ops")]
    assert len(layers) > 40
    assert {layer.ops.name for layer in layers} == {"numba"}
    assert create_model(SMALL, img_size=32, backend="torch").float().encoder.ops.name == "torch"
    with outlined():
        other = create_model(SMALL, img_size=32)
    other.load_state_dict(model.state_dict(), assign=True)
    assert other.encoder.ops.name == other.decoder.ops.name == "numba"


@pytest.mark.parametrize(
    ("backend", "encoder", "decoder"),
    [
        ("auto", "numba", "numba"),
        ("grid", "numba", "numba"),  # configurations of before
        ("torch", "torch", "torch"),
        ("masked", "torch", "numba"),
        ("triton", "triton", "numba"),
    ],
)
def test_the_backend_of_each_part(backend: str, encoder: str, decoder: str) -> None:
    """The decoder is dense: what is made for sparse encoders is not for it."""
    model = create_model(SMALL, img_size=32, backend=backend)
    assert (model.encoder.ops.name, model.decoder.ops.name) == (encoder, decoder)


@pytest.mark.parametrize(
    ("backend", "place", "name"),
    [
        ("torch", torch.nn.functional, "conv2d"),
        ("numba", numba_depthwise, "convolve_by_site"),
        ("triton", triton_depthwise, "slide_kernel"),
    ],
)
def test_few_frames_lie_between_the_model_and_a_convolution(
    backend: str, place: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What someone reads who follows a step: our functions, from FCMAE.forward on, while a convolution is computed."""
    model = create_model(SMALL, img_size=32, stem_stride=1, decoder_dim=8, backend=backend)
    seen: list[str] = []

    def look(*_args: Any, **_kwargs: Any) -> None:
        ours = tuple(str(Path(__file__).parents[2] / folder) for folder in ("fcmae", "models", "sparse"))
        seen.extend(frame.name for frame in traceback.extract_stack() if frame.filename.startswith(ours))
        raise StopIteration

    kernel = MagicMock(side_effect=look)
    kernel.__getitem__.return_value = kernel  # Triton's way to launch
    monkeypatch.setattr(place, name, kernel)
    monkeypatch.setattr(numba_depthwise, "_by_window", lambda *_: False)
    with pytest.raises(StopIteration):
        model(torch.randn(1, 3, 32, 32))
    assert seen[:5] == ["forward", "forward_sites", "forward", "forward", "forward"]  # FCMAE … DepthwiseConv
    assert seen[5] == "depthwise_conv"
    assert len(seen) <= 8

"""The analysis of whole networks: sparse ones at every tap, batches, masks, what it leaves behind."""

import weakref
from collections.abc import Iterator

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fcmae
from fcmae.analysis.collapse import analyze_collapse
from fcmae.analysis.taps import TAPS
from fcmae.sparse.sites import ActiveSites
from tests.conftest import random_visible
from tests.fcmae.analysis.literal import (
    SMALL_CONVNEXT,
    assert_rows_are,
    dense_twin,
    literal_grn,
    randomized,
)


@pytest.mark.usefixtures("_small_sizes")
@pytest.mark.parametrize("version", [{}, {"use_grn": False, "use_layer_scale": True, "ls_init_value": 0.3}])
def test_sparse_encoder_at_every_tap(version: dict) -> None:
    """With masks, against its own layers one by one and the literal GRN."""
    model = randomized(fcmae.create_model("convnextv2_atto", img_size=64, stem_stride=2, **version))
    encoder = model.encoder
    images, visible = torch.randn(2, 3, 64, 48, dtype=torch.float64), random_visible(2, 4, 3, 5)
    found: dict[str, list[Tensor]] = {tap: [] for tap in TAPS}
    with torch.no_grad():
        sites = ActiveSites(visible)
        x = encoder.stem[1](encoder.stem[0](images, sites, 8))
        for stage, side in zip(encoder.stages, (8, 4, 2, 1), strict=True):
            if stage.downsample:
                x = stage.downsample[1](stage.downsample[0](x), sites, 2 * side)
            for block in stage.blocks:
                hidden = block.mlp.fc1(block.norm(block.conv_dw(x, sites, side)))
                inside = {"expansion": hidden, "act": F.gelu(hidden), "grn": F.gelu(hidden)}
                if block.mlp.grn is not None:
                    grid = inside["act"].view(2, -1, 1, hidden.shape[1])
                    inside["grn"] = literal_grn(grid, block.mlp.grn.weight, block.mlp.grn.bias).view_as(hidden)
                x = inside["block"] = block(x, sites, side)
                for tap in TAPS:
                    found[tap].append(inside[tap].view(2, 5 * side * side, -1))
    for tap in TAPS:
        assert_rows_are(analyze_collapse(model, images, tap, visible=visible), found[tap])
        assert_rows_are(analyze_collapse(encoder, images, tap, visible=visible), found[tap])


@pytest.mark.usefixtures("_small_sizes")
@pytest.mark.parametrize("name", ["convnextv2_atto", "convnext_tiny"])
def test_sparse_with_everything_visible_is_dense_timm(name: str) -> None:
    model = randomized(fcmae.create_model(name, img_size=32, decoder_dim=8))
    dense = dense_twin(model)
    images = torch.randn(2, 3, 64, 32, dtype=torch.float64)
    for tap in TAPS:
        got, expected = analyze_collapse(model, images, tap, mask_ratio=0.0), analyze_collapse(dense, images, tap)
        assert got == analyze_collapse(model.encoder, images, tap)  # an encoder alone sees everything
        for row, wanted in zip(got, expected, strict=True):
            assert (row.layer, row.stage, row.depth, row.tap) == (wanted.layer, wanted.stage, wanted.depth, wanted.tap)
            assert row.distance == pytest.approx(wanted.distance, abs=1e-10)
            assert (row.dead, row.saturated) == pytest.approx((wanted.dead, wanted.saturated), abs=1e-12)


@pytest.mark.usefixtures("_small_sizes")
def test_batches_are_read_once_and_dropped_and_change_nothing() -> None:
    """Rows of a generator of uneven batches equal those of one tensor; no batch outlives the next one."""
    images = torch.randn(7, 3, 32, 64)
    model = fcmae.create_model("convnextv2_atto", img_size=32)
    # Numba, when it compiles, leaves cycles behind that hold what it was called with, until they are collected
    analyze_collapse(model, images)
    alive: list[weakref.ref[Tensor]] = []

    def batches() -> Iterator[Tensor]:
        for start, stop in ((0, 3), (3, 4), (4, 7)):
            assert sum(ref() is not None for ref in alive) <= 1  # the one that the loop still names
            batch = images[start:stop].clone()
            alive.append(weakref.ref(batch))
            yield batch
            del batch

    got = analyze_collapse(model, batches(), effective_rank=True)
    whole = analyze_collapse(model, images, effective_rank=True)
    by_two = analyze_collapse(model, images, effective_rank=True, batch_size=2)
    for row, *others in zip(got, whole, by_two, strict=True):
        for other in others:
            for field in ("distance", "distance_se", "dead", "saturated"):
                assert getattr(row, field) == pytest.approx(getattr(other, field), abs=1e-6)
            assert row.effective_rank == pytest.approx(other.effective_rank, rel=1e-3)
            assert (row.images, row.channels) == (7, other.channels)


@pytest.mark.usefixtures("_small_sizes")
def test_masks_depend_on_the_seed_and_on_the_ratio() -> None:
    model = fcmae.create_model("convnextv2_atto", img_size=64, stem_stride=1, mask_ratio=0.6)
    images = torch.randn(2, 3, 64, 64)
    rows = analyze_collapse(model, images)
    assert rows == analyze_collapse(model, images, seed=0)
    assert rows != analyze_collapse(model, images, seed=1)
    assert rows == analyze_collapse(model, images, mask_ratio=0.6)
    assert rows != analyze_collapse(model, images, mask_ratio=0.0)


def test_the_model_is_left_as_it_was() -> None:
    model = timm.create_model("convnextv2_atto", drop_path_rate=0.5, **SMALL_CONVNEXT)
    model.stages[1].eval()
    modes = [module.training for module in model.modules()]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    images = torch.randn(2, 3, 32, 32)
    assert analyze_collapse(model, images) == analyze_collapse(model, images)  # eval mode: no drop path
    for bad in (images[0], torch.full((1, 3, 32, 32), torch.nan)):
        with pytest.raises(ValueError):  # noqa: PT011  # which one is tested below
            analyze_collapse(model, bad)
    assert modes == [module.training for module in model.modules()]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_dead_network_is_seen_as_such() -> None:
    model = timm.create_model("convnextv2_atto", **SMALL_CONVNEXT).eval()
    nn.init.zeros_(model.stages[2].blocks[0].mlp.fc1.weight)
    nn.init.constant_(model.stages[2].blocks[0].mlp.fc1.bias, -50.0)  # GELU: exactly 0
    nn.init.zeros_(model.stages[3].blocks[0].mlp.fc1.weight)
    nn.init.constant_(model.stages[3].blocks[0].mlp.fc1.bias, 3.0)  # the same everywhere
    rows = analyze_collapse(model, torch.randn(2, 3, 64, 64), effective_rank=True)
    assert (rows[3].distance, rows[3].dead, rows[3].saturated, rows[3].effective_rank) == (0, 1, 0, 0)
    assert (rows[4].dead, rows[4].saturated) == (0, 1)
    assert rows[4].distance < 1e-6
    assert rows[4].effective_rank == pytest.approx(1, abs=1e-2)


@pytest.mark.usefixtures("_small_sizes")
def test_wrong_input_is_named() -> None:
    dense, images = timm.create_model("convnextv2_atto", **SMALL_CONVNEXT), torch.randn(2, 3, 32, 32)
    sparse = fcmae.create_model("convnextv2_atto", img_size=32, stem_stride=1)
    masked = fcmae.create_model("convnextv2_atto", img_size=32, stem_stride=1, backend="masked")
    visible = random_visible(2, 4, 4, 3)
    cases = [
        (dense, images, {"tap": "fc9"}, "tap must be one of expansion, act, grn, block, got 'fc9'"),
        (dense, images, {"mask_ratio": 0.5}, "ConvNeXt is a dense network, which sees everything"),
        (dense, images[0], {}, r"images must be \[B, C, H, W\], got \[3, 32, 32\]"),
        (dense, [], {}, "no images to analyze"),
        (dense, images * torch.nan, {}, "features of stages.0.blocks.0 are not finite"),
        (sparse, images, {"mask_ratio": 1.0}, r"mask_ratio must be in \[0, 1\), got 1.0"),
        (sparse, images, {"mask_ratio": 0.5, "visible": visible}, "not both"),
        (sparse, images, {"visible": visible[:1]}, "masks of 1 images, but there are more"),
        (sparse, images[:1], {"visible": visible}, "masks of 2 images, but there were 1"),
        (sparse, images[:, :, :4], {}, r"images \[2, 3, 4, 32\] do not fit: .* multiples of 8"),
        (sparse, images[:, :, :, :30], {}, r"images \[2, 3, 32, 30\] do not fit"),
        (masked, images, {}, 'backend "masked" keeps no site matrix'),
        (nn.Sequential(nn.Conv2d(3, 4, 1)), images, {}, "Sequential has no known blocks.*its children are: 0"),
    ]
    for model, given, options, message in cases:
        with pytest.raises(ValueError, match=message):
            analyze_collapse(model, given, **options)

"""The analysis of whole networks: every tap against a literal recomputation, batches, masks, what it leaves behind."""

import weakref
from collections.abc import Iterator
from functools import partial

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fcmae
from fcmae.analysis.collapse_analysis import BlockCollapse, analyze_collapse
from fcmae.analysis.feature_maps import NoGridError, choose_blocks, feature_maps
from fcmae.analysis.taps import TAPS, Features, FoundBlock, find_blocks, watched
from fcmae.models import SparseConvNeXt, sizes
from fcmae.sparse import ActiveSites
from tests.conftest import random_visible

SMALL_CONVNEXT = {"depths": (1, 2, 1, 1), "dims": (4, 6, 8, 10)}
DENSE = {
    "V1, NCHW inside": partial(timm.create_model, "convnext_atto", **SMALL_CONVNEXT),
    "V1, NHWC inside": partial(timm.create_model, "convnext_tiny", **SMALL_CONVNEXT),
    "V2, NCHW inside": partial(timm.create_model, "convnextv2_atto", **SMALL_CONVNEXT),
    "V2, NHWC inside": partial(timm.create_model, "convnextv2_tiny", **SMALL_CONVNEXT),
}
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 12, "depth": 3, "num_heads": 2}


@pytest.fixture
def _small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of our own as small as those of timm's here; convolutions in float64 are slow."""
    for name, conv_mlp in (("convnextv2_atto", True), ("convnext_tiny", False)):
        monkeypatch.setitem(sizes.SIZES, name, sizes.Size(**SMALL_CONVNEXT, conv_mlp=conv_mlp))


def dense_twin(model: fcmae.FCMAE) -> nn.Module:
    """timm's network with the encoder's weights, in their precision."""
    dense = timm.create_model(model.config.name, num_classes=0, **SMALL_CONVNEXT).double()
    assert dense.load_state_dict(model.encoder.state_dict(), strict=False).unexpected_keys == []
    return dense.eval()


def randomised(model: nn.Module) -> nn.Module:
    """float64, and every parameter with a value that matters: GRN and LayerScale start at almost nothing."""
    for name, parameter in model.double().named_parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, mean=float("norm" in name), std=0.5)
        else:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model.eval()


def distances_of(per_block: list[Tensor]) -> list[tuple[float, float]]:
    """Mean and standard error over images of the distance from all pairs' cosines; [B, M, C] each, in float64."""
    rows = []
    for x_BMC in per_block:
        norm = x_BMC.norm(dim=1, keepdim=True)
        unit = torch.where(norm > 0, x_BMC / norm, 0)
        cosine = torch.where((norm == 0) & (norm.mT == 0), 1, unit.mT @ unit)
        d = ((1 - cosine) / 2).mean((1, 2))
        rows.append((float(d.mean()), float(d.std() / len(d) ** 0.5)))
    return rows


def assert_rows_are(rows: list[BlockCollapse], per_block: list[Tensor]) -> None:
    for row, (mean, error) in zip(rows, distances_of(per_block), strict=True):
        assert row.distance == pytest.approx(mean, abs=1e-12), row.layer
        assert row.distance_se == pytest.approx(error, abs=1e-12), row.layer


def literal_grn(x_BHWC: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    norm = x_BHWC.square().sum((1, 2), keepdim=True).sqrt()
    return weight * (x_BHWC * norm / (norm.mean(-1, keepdim=True) + 1e-6)) + bias + x_BHWC


def convnext_by_hand(model: nn.Module, images: Tensor) -> dict[str, list[Tensor]]:
    """The tapped tensors of a dense ConvNeXt, from its parameters, [B, M, C] of each block."""
    found: dict[str, list[Tensor]] = {tap: [] for tap in TAPS}
    x = model.stem(images)
    for stage in model.stages:
        x = stage.downsample(x)
        for block in stage.blocks:
            mlp = block.mlp
            y = block.conv_dw(x).permute(0, 2, 3, 1)
            y = F.layer_norm(y, y.shape[-1:], block.norm.weight, block.norm.bias, 1e-6)
            inside = {"expansion": F.linear(y, mlp.fc1.weight.flatten(1), mlp.fc1.bias)}
            inside["act"] = inside["grn"] = F.gelu(inside["expansion"])
            if hasattr(mlp, "grn"):
                inside["grn"] = literal_grn(inside["act"], mlp.grn.weight, mlp.grn.bias)
            y = F.linear(inside["grn"], mlp.fc2.weight.flatten(1), mlp.fc2.bias).permute(0, 3, 1, 2)
            x = x + (y if block.gamma is None else y * block.gamma.view(-1, 1, 1))
            inside["block"] = x.permute(0, 2, 3, 1)
            for tap in TAPS:
                found[tap].append(inside[tap].flatten(1, 2))
    return found


@pytest.mark.parametrize("kind", DENSE)
def test_dense_convnext_at_every_tap(kind: str) -> None:
    model = randomised(DENSE[kind](num_classes=3))
    images = torch.randn(3, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        found = convnext_by_hand(model, images)
    for tap in TAPS:
        rows = analyze_collapse(model, images, tap)
        assert_rows_are(rows, found[tap])
        assert [row.layer for row in rows[:3]] == ["stages.0.blocks.0", "stages.1.blocks.0", "stages.1.blocks.1"]
        assert [row.stage for row in rows] == [0, 1, 1, 2, 3]
        assert [row.depth for row in rows] == [0, 0.25, 0.5, 0.75, 1]
        assert rows[0].channels == (4 if tap == "block" else 16)
        assert {row.images for row in rows} == {3}
        assert {row.tap for row in rows} == {"act" if tap == "grn" and kind.startswith("V1") else tap}


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_vit_without_its_class_and_register_tokens(prefix: int) -> None:
    options = {"class_token": prefix > 0, "reg_tokens": max(0, prefix - 1), "global_pool": "avg"}
    model = randomised(timm.create_model("vit_tiny_patch16_224", num_classes=0, **VIT, **options))
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    found: dict[str, list[Tensor]] = {tap: [] for tap in TAPS}
    with torch.no_grad():
        x = model._pos_embed(model.patch_embed(images))
        for block in model.blocks:
            x = x + block.attn(block.norm1(x))
            hidden = block.mlp.fc1(block.norm2(x))
            x = x + block.mlp.fc2(F.gelu(hidden))
            for tap in TAPS:
                found[tap].append({"expansion": hidden, "block": x}.get(tap, F.gelu(hidden))[:, prefix:])
    assert found["act"][0].shape[1] == 16
    for tap in TAPS:
        rows = analyze_collapse(model, images, tap)
        assert_rows_are(rows, found[tap])
        assert [row.layer for row in rows] == ["blocks.0", "blocks.1", "blocks.2"]
        assert {row.stage for row in rows} == {0}


def test_class_tokens_are_left_out_only_where_they_are() -> None:
    """XCiT and CaiT add theirs after the blocks, ConViT before the last ones, CrossViT has one a branch."""
    seen: dict[str, list[int]] = {}
    for name, options in {
        "xcit_nano_12_p16_224": {"img_size": 48, "depth": 1, "embed_dim": 16, "num_heads": 2},
        "cait_xxs24_224": {"img_size": 48, "depth": 1, "embed_dim": 16, "num_heads": 2},
        "convit_tiny": {"img_size": 48, "depth": 2, "local_up_to_layer": 1, "embed_dim": 4, "num_heads": 4},
        "crossvit_tiny_240": {"img_size": 240, "depth": ((1, 1, 0),), "embed_dim": (8, 16), "num_heads": (2, 2)},
    }.items():
        model = timm.create_model(name, num_classes=0, **options).eval()
        positions = seen[name] = []
        blocks = find_blocks(model)

        def see(_: FoundBlock, features: Features, positions: list[int] = positions) -> None:
            positions.append(features.x.shape[1])

        with torch.no_grad(), watched(model, blocks, "act", see):
            model.forward_features(torch.randn(2, 3, options["img_size"], options["img_size"]))
    assert seen["xcit_nano_12_p16_224"] == [9]
    assert seen["cait_xxs24_224"] == [9]
    assert seen["convit_tiny"] == [9, 9]
    assert seen["crossvit_tiny_240"] == [20 * 20, 14 * 14]  # patches of 12 pixels, and of 16 in 224


def test_tokens_in_an_order_of_their_own_are_not_drawn() -> None:
    options = {"embed_dim": 8, "num_heads": 1, "stages": (1, 1, 1, 1)}
    model = timm.create_model("hiera_tiny_224", img_size=64, **options).eval()
    image = torch.randn(1, 3, 64, 64)
    assert len(analyze_collapse(model, image)) == 4
    with pytest.raises(NoGridError, match="Hiera keeps its tokens in an order of its own"):
        feature_maps(model, image, ["0"])


class _Twice(nn.Module):
    """A block that runs twice, or one that sees halves of the images as images."""

    def __init__(self, halves: bool) -> None:
        super().__init__()
        self.blocks, self.halves = nn.Sequential(nn.Conv2d(3, 4, 1)), halves

    def forward(self, x: Tensor) -> Tensor:
        if self.halves:
            return self.blocks(torch.cat(x.chunk(2, dim=2)))
        return self.blocks(x) + self.blocks(x)


def test_a_block_without_one_tensor_of_the_images_is_named() -> None:
    images = torch.randn(2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"blocks\.0 runs more than once in a forward pass"):
        analyze_collapse(_Twice(halves=False), images)
    with pytest.raises(ValueError, match=r"first axis of blocks\.0's tensor holds 4 parts, not the 2 images"):
        analyze_collapse(_Twice(halves=True), images)


def test_swin_which_is_nhwc() -> None:
    options = {"img_size": 64, "window_size": 4, "embed_dim": 8, "depths": (2, 1, 1, 1), "num_heads": (1, 1, 1, 1)}
    model = randomised(timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, **options))
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    found: dict[str, list[Tensor]] = {tap: [] for tap in TAPS}
    with torch.no_grad():
        x = model.patch_embed(images)
        for layer in model.layers:
            x = layer.downsample(x)
            for block in layer.blocks:
                x = x + block._attn(block.norm1(x))
                hidden = block.mlp.fc1(block.norm2(x))
                x = x + block.mlp.fc2(F.gelu(hidden))
                for tap in TAPS:
                    found[tap].append({"expansion": hidden, "block": x}.get(tap, F.gelu(hidden)).flatten(1, 2))
    for tap in TAPS:
        rows = analyze_collapse(model, images, tap)
        assert_rows_are(rows, found[tap])
        assert [row.stage for row in rows] == [0, 0, 1, 2, 3]


def test_resnet_gives_the_output_of_its_blocks_and_says_so() -> None:
    model = randomised(timm.create_model("resnet18", num_classes=0))
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    found = []
    with torch.no_grad():
        x = model.maxpool(model.act1(model.bn1(model.conv1(images))))
        for block in [*model.layer1, *model.layer2, *model.layer3, *model.layer4]:
            x = block(x)
            found.append(x.flatten(2).mT.clone())  # the next block's activation is in place
    rows = analyze_collapse(model, images, "act")
    assert_rows_are(rows, found)
    assert {row.tap for row in rows} == {"block"}
    assert [row.layer for row in rows] == [f"layer{s}.{b}" for s in (1, 2, 3, 4) for b in (0, 1)]


@pytest.mark.usefixtures("_small_sizes")
@pytest.mark.parametrize("version", [{}, {"use_grn": False, "use_layer_scale": True, "ls_init_value": 0.3}])
def test_sparse_encoder_at_every_tap(version: dict) -> None:
    """With masks, against its own layers one by one and the literal GRN."""
    model = randomised(fcmae.create_model("convnextv2_atto", img_size=64, stem_stride=2, **version))
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
    model = randomised(fcmae.create_model(name, img_size=32, decoder_dim=8))
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
        (dense, [], {}, "no images to analyse"),
        (dense, images * torch.nan, {}, "features of stages.0.blocks.0 are not finite"),
        (sparse, images, {"mask_ratio": 1.0}, r"mask_ratio must be in \[0, 1\), got 1.0"),
        (sparse, images, {"mask_ratio": 0.5, "visible": visible}, "not both"),
        (sparse, images, {"visible": visible[:1]}, "masks of 1 images, but there are more"),
        (sparse, images[:1], {"visible": visible}, "masks of 2 images, but there were 1"),
        (sparse, images[:, :, :4], {}, r"at least 8×8 pixels, got \[2, 3, 4, 32\]"),
        (sparse, images[:, :, :, :30], {}, r"images \[2, 3, 32, 30\] do not fit"),
        (masked, images, {}, 'backend "masked" keeps no site matrix'),
        (nn.Sequential(nn.Conv2d(3, 4, 1)), images, {}, "Sequential has no blocks that are known.*its parts are: 0"),
    ]
    for model, given, options, message in cases:
        with pytest.raises(ValueError, match=message):
            analyze_collapse(model, given, **options)


@pytest.mark.usefixtures("_small_sizes")
def test_feature_maps_are_the_channels_on_their_grid() -> None:
    """Masked positions NaN; the visible ones, and the dense network's, the block's own output."""
    model = randomised(fcmae.create_model("convnextv2_atto"))
    encoder: SparseConvNeXt = model.encoder
    images = torch.randn(1, 3, 128, 192, dtype=torch.float64)
    (maps,) = feature_maps(model, images, ["stages.3.blocks.0"], "block", mask_ratio=0.5, seed=3)
    assert (maps.maps.shape, maps.channels) == ((10, 4, 6), 10)
    seen = ~maps.maps.isnan()
    assert torch.equal(seen, seen[:1].expand_as(seen))
    assert int(seen[0].sum()) == 12
    with torch.no_grad():
        expected = encoder(images, seen[:1])[0].float()
    torch.testing.assert_close(maps.maps.nan_to_num(0), expected)
    dense = dense_twin(model)
    (maps,) = feature_maps(dense, images, ["1"], "block", count=4)
    assert maps.layer == "stages.3.blocks.0"
    with torch.no_grad():
        features = dense.forward_features(images)[0].float()
    torch.testing.assert_close(maps.maps, features[[0, 3, 6, 9]])
    row = analyze_collapse(dense, images, "block")[-1]
    assert (maps.distance, maps.dead_share) == pytest.approx((row.distance, row.dead), abs=1e-6)


def test_feature_maps_of_tokens_are_in_raster_order() -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **(VIT | {"img_size": (32, 64)})).eval()
    image = torch.randn(1, 3, 32, 64)
    (maps,) = feature_maps(model, image, ["blocks.2"], "block", count=12)
    with torch.no_grad():
        tokens = model.blocks(model._pos_embed(model.patch_embed(image)))
    torch.testing.assert_close(maps.maps, tokens[0, 1:].t().reshape(12, 4, 8))


def test_blocks_are_chosen_by_name_or_depth() -> None:
    blocks = find_blocks(timm.create_model("convnextv2_atto", **SMALL_CONVNEXT))

    def chosen(*wanted: str) -> list[int]:
        return [blocks.index(block) for block in choose_blocks(blocks, wanted)]

    assert chosen("1", "0", "0.5", "0.51") == [0, 2, 4]
    assert chosen("stages.2.blocks.0", "0.75") == [3]
    for bad in ("stages.9", "1.5", "nan"):
        with pytest.raises(ValueError, match=f"{bad} is neither a block nor a depth from 0 to 1"):
            chosen(bad)

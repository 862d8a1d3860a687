"""Which tensor of each block is read, in networks of every kind: against a literal recomputation."""

from functools import partial

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcmae.analysis.collapse import analyze_collapse
from fcmae.analysis.feature_maps import NoGridError, feature_maps
from fcmae.analysis.taps import TAPS, Features, FoundBlock, find_blocks, watched
from tests.fcmae.analysis.literal import (
    SMALL_CONVNEXT,
    VIT,
    assert_rows_are,
    convnext_by_hand,
    randomized,
)

DENSE = {
    "V1, NCHW inside": partial(timm.create_model, "convnext_atto", **SMALL_CONVNEXT),
    "V1, NHWC inside": partial(timm.create_model, "convnext_tiny", **SMALL_CONVNEXT),
    "V2, NCHW inside": partial(timm.create_model, "convnextv2_atto", **SMALL_CONVNEXT),
    "V2, NHWC inside": partial(timm.create_model, "convnextv2_tiny", **SMALL_CONVNEXT),
}


@pytest.mark.parametrize("kind", DENSE)
def test_dense_convnext_at_every_tap(kind: str) -> None:
    model = randomized(DENSE[kind](num_classes=3))
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
    model = randomized(timm.create_model("vit_tiny_patch16_224", num_classes=0, **VIT, **options))
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
    model = randomized(timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, **options))
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
    model = randomized(timm.create_model("resnet18", num_classes=0))
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

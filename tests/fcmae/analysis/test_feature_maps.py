"""Channels as maps, on the grid that they come from."""

import pytest
import timm
import torch

import fcmae
from fcmae.analysis.collapse import analyze_collapse
from fcmae.analysis.feature_maps import choose_blocks, feature_maps
from fcmae.analysis.taps import find_blocks
from fcmae.models import SparseConvNeXt
from tests.fcmae.analysis.literal import SMALL_CONVNEXT, VIT, dense_twin, randomized


@pytest.mark.usefixtures("_small_sizes")
def test_feature_maps_are_the_channels_on_their_grid() -> None:
    """Masked positions NaN; the visible ones, and the dense network's, the block's own output."""
    model = randomized(fcmae.create_model("convnextv2_atto"))
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

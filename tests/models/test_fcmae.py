"""FCMAE: what is masked, what is scored, what the decoder sees, and how the weights start."""

from typing import Any

import pytest
import timm
import torch
from torch.nn import functional as F

import fcmae
from fcmae.models.fcmae import count_visible
from fcmae.models.patches import patchify, unpatchify
from tests.conftest import random_visible


def small_model(**options: Any) -> fcmae.FCMAE:
    return fcmae.create_model("convnextv2_atto", **{"img_size": 64, "stem_stride": 2, "decoder_dim": 32, **options})


def test_contract_of_the_readme() -> None:
    model = fcmae.create_model("convnextv2_atto", img_size=64, in_chans=3, mask_ratio=0.6)
    assert isinstance(model, fcmae.FCMAE)
    out = model(torch.randn(2, 3, 64, 64))
    assert out.loss.shape == ()
    assert out.pred.shape == (2, 4, 32 * 32 * 3)
    assert out.visible.shape == (2, 2, 2)
    assert out.visible.dtype == torch.bool
    assert torch.equal(model(torch.randn(2, 3, 64, 64), visible=out.visible).visible, out.visible)
    assert model.encoder(torch.randn(2, 3, 64, 64), out.visible).shape == (2, 320, 2, 2)


@pytest.mark.parametrize(("hw", "in_chans", "stem_stride"), [((32, 64), 1, 1), ((64, 32), 5, 2), ((64, 96), 3, 4)])
def test_any_shape_channels_and_stem(hw: tuple[int, int], in_chans: int, stem_stride: int) -> None:
    model = small_model(img_size=hw, in_chans=in_chans, stem_stride=stem_stride)
    patch = 8 * stem_stride
    assert model.patch_size == patch
    out = model(torch.randn(2, in_chans, *hw))
    assert out.pred.shape == (2, hw[0] // patch * (hw[1] // patch), patch * patch * in_chans)
    out.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("patches", "ratio", "kept"), [(49, 0.6, 20), (49, 0.5, 24), (16, 0.6, 6), (1, 0.6, 1), (4, 0, 4)]
)
def test_mask_ratio_rounds(patches: int, ratio: float, kept: int) -> None:
    """round(L · (1 − ratio)), never 0; 49 patches at 0.6 keep 20 where the official code keeps 19."""
    assert count_visible(patches, ratio) == kept


def test_random_masks_keep_k_patches_and_differ() -> None:
    model = small_model(mask_ratio=0.5)
    visible, kept = model.random_visible(torch.empty(64, 3, 64, 64))
    assert kept == 8
    assert (visible.flatten(1).sum(1) == 8).all()
    share = visible.float().mean(0)  # every patch is kept about half of the time: 64 draws, 5 standard deviations
    assert ((share - 0.5).abs() < 5 * 0.5 / 8).all()


@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_loss_is_the_mean_over_masked_patches_only(norm_pix_loss: bool) -> None:
    """The paper's definition, patch by patch in a loop, with MAE's unbiased variance."""
    model = small_model(norm_pix_loss=norm_pix_loss)
    images, visible = torch.randn(2, 3, 64, 48) * 3 + 1, random_visible(2, 4, 3, 5)
    out = model(images, visible)
    errors = []
    for b in range(2):
        for i in range(12):
            y, x = divmod(i, 3)
            target = images[b, :, 16 * y : 16 * y + 16, 16 * x : 16 * x + 16].permute(1, 2, 0).flatten()
            if norm_pix_loss:
                target = (target - target.mean()) / (target.var() + 1e-6) ** 0.5
            if not visible[b, y, x]:
                errors.append((out.pred[b, i] - target).square().mean())
    torch.testing.assert_close(out.loss, torch.stack(errors).mean())


@pytest.mark.parametrize("masked_only", [False, True])
def test_only_scored_patches_count(masked_only: bool) -> None:
    """The mean over the masked patches that are scored, whatever the visible ones are; 0 if there are none."""
    model = small_model(norm_pix_loss=False)
    images, visible = torch.randn(2, 3, 64, 48), random_visible(2, 4, 3, 5)
    scored = torch.rand(2, 4, 3) < 0.5
    errors = (model(images, visible).pred - patchify(images, 16)).square().mean(2).view(2, 4, 3)
    out = model(images, visible, masked_only=masked_only, scored=scored)
    torch.testing.assert_close(out.loss, errors[scored & ~visible].mean())
    assert model(images, visible, masked_only=masked_only, scored=visible).loss == 0
    for wrong in (scored[:1], scored.float(), scored.flatten(1)):
        with pytest.raises(ValueError, match=r"scored must be bool \[2, 4, 3\], got"):
            model(images, visible, masked_only=masked_only, scored=wrong)


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("config", [{}, {"decoder_depth": 0}, {"decoder_depth": 2}], ids=str)
def test_the_masked_patches_alone_give_the_same_loss(config: dict[str, Any], backend: str) -> None:
    """The last block computes theirs alone, but GRN looks at all."""
    model = small_model(**config, backend=backend)
    for name, p in model.decoder.named_parameters():
        if "grn" in name:
            torch.nn.init.normal_(p)
    images, visible = torch.randn(2, 3, 64, 48), random_visible(2, 4, 3, 5)
    whole, part = model(images, visible), model(images, visible, masked_only=True)
    torch.testing.assert_close(part.pred, whole.pred[~visible.flatten(1)].view(2, 7, -1))
    torch.testing.assert_close(part.loss, whole.loss)
    grads = [torch.autograd.grad(out.loss, list(model.parameters())) for out in (whole, part)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_with_nothing_masked_the_loss_is_zero_and_has_a_gradient() -> None:
    model = small_model()
    for masked_only in (False, True):
        out = model(torch.randn(1, 3, 64, 64), torch.ones(1, 4, 4, dtype=torch.bool), masked_only=masked_only)
        assert out.loss.item() == 0
        out.loss.backward()


def test_predicting_nothing_scores_one() -> None:
    model = small_model()
    torch.nn.init.zeros_(model.decoder.pred.weight)
    assert model(torch.randn(4, 3, 64, 64)).loss.item() == pytest.approx(1, abs=2e-3)


def test_everything_visible_has_zero_loss_and_a_prediction() -> None:
    model = small_model()
    out = model(torch.randn(1, 3, 64, 64), visible=torch.ones(1, 4, 4, dtype=torch.bool))
    assert out.loss.item() == 0
    assert out.pred.isfinite().all()
    out.loss.backward()


def test_visible_pixels_move_the_prediction_masked_ones_do_not() -> None:
    model = small_model()
    images, visible = torch.randn(1, 3, 64, 64), random_visible(1, 4, 4, 6)
    where = visible.repeat_interleave(16, 1).repeat_interleave(16, 2).unsqueeze(1)
    out = model(images, visible)
    assert torch.equal(model(torch.where(where, images, 7.0), visible).pred, out.pred)
    assert not torch.equal(model(torch.where(where, 7.0, images), visible).pred, out.pred)


def test_patchify_round_trip_and_order() -> None:
    """Values of a patch go (y, x, channel), as in the official checkpoints' ``pred``."""
    images = torch.randn(2, 5, 8, 12)
    patches = patchify(images, 4)
    assert torch.equal(unpatchify(patches, 4, (2, 3)), images)
    assert torch.equal(patches[1, 4].view(4, 4, 5)[2, 3], images[1, :, 6, 7])


def test_decoder_is_the_dense_network() -> None:
    """1×1, mask tokens, timm's dense ConvNeXt V2 block, 1×1: the same numbers from the same weights."""
    model = small_model(decoder_depth=2).double()
    decoder = model.decoder
    for name, p in decoder.named_parameters():
        torch.nn.init.normal_(p, mean=float(name.endswith("norm.weight")), std=0.3)
    blocks = torch.nn.Sequential(
        *(timm.models.convnext.ConvNeXtBlock(32, use_grn=True, ls_init_value=None) for _ in range(2))
    ).double()
    for i, block in enumerate(blocks):
        block.norm.eps = 1e-6
        block.load_state_dict(decoder.blocks[i].state_dict(), strict=True)
    images, visible = torch.randn(2, 3, 48, 64, dtype=torch.float64), random_visible(2, 3, 4, 5)
    seen = F.conv2d(model.encoder(images, visible), decoder.proj.weight[..., None, None], decoder.proj.bias)
    x = torch.where(visible.unsqueeze(1), seen, decoder.mask_token.view(1, -1, 1, 1))
    expected = F.conv2d(blocks(x), decoder.pred.weight[..., None, None], decoder.pred.bias)
    torch.testing.assert_close(model(images, visible).pred, expected.flatten(2).transpose(1, 2), rtol=1e-9, atol=1e-9)


def test_reconstruct_pastes_visible_pixels_and_undoes_the_normalization() -> None:
    model = small_model()
    images, visible = torch.randn(2, 3, 64, 64) * 2 + 5, random_visible(2, 4, 4, 6)
    out = model(images, visible)
    masked, pasted = model.reconstruct(images, out)
    where = visible.repeat_interleave(16, 1).repeat_interleave(16, 2).unsqueeze(1).expand_as(images)
    assert torch.equal(pasted[where], images[where])
    assert torch.equal(masked, images * where)
    target = patchify(images, 16)
    mean, std = target.mean(-1, keepdim=True), (target.var(-1, keepdim=True) + 1e-6).sqrt()
    perfect = out._replace(pred=(target - mean) / std)  # a perfect prediction gives the image back
    torch.testing.assert_close(model.reconstruct(images, perfect)[1], images)


def test_weights_start_at_std_002_once() -> None:
    """The official code initializes most weights a second time with std 1."""
    model = fcmae.create_model("convnextv2_atto")
    for name, p in model.named_parameters():
        if p.ndim > 1:
            # a normal truncated at ±2 absolute is not truncated at all at this std
            assert p.std().item() == pytest.approx(0.02, rel=0.1), name
        elif "norm" in name or name == "encoder.stem.1.weight" or "downsample.0" in name:
            assert torch.equal(p, torch.full_like(p, float(name.endswith("weight")))), name
        elif name == "decoder.mask_token":
            assert p.std().item() == pytest.approx(0.02, rel=0.15)
        else:
            assert torch.equal(p, torch.zeros_like(p)), name


def test_layer_scale_starts_at_its_value() -> None:
    model = fcmae.create_model("convnext_tiny", ls_init_value=1e-3)
    gammas = [p for n, p in model.named_parameters() if n.endswith("gamma")]
    assert len(gammas) == 18
    assert all(torch.equal(g, torch.full_like(g, 1e-3)) for g in gammas)
    assert not [n for n, _ in model.encoder.named_parameters() if "grn" in n]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "convnextv2_giant"}, "name 'convnextv2_giant' is not known; choose one of convnextv2_atto"),
        ({"img_size": 100}, "multiple of the patch size 32 .* got 100; the nearest is 96"),
        ({"img_size": 0}, "got 0"),
        ({"stem_stride": 3}, "1, 2 or 4, got 3"),
        ({"mask_ratio": 1.0}, r"mask_ratio must be in \[0, 1\), got 1.0"),
        ({"in_chans": 0}, "in_chans must be at least 1, got 0"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fcmae.create_model(**options)


def test_bf16_autocast_trains() -> None:
    model = small_model()
    images, visible = torch.randn(2, 3, 64, 64), random_visible(2, 4, 4, 6)
    exact = model(images, visible).loss
    with torch.autocast("cpu", torch.bfloat16):
        out = model(images, visible)
    assert out.pred.dtype == torch.bfloat16
    assert out.loss.dtype == torch.float32
    assert out.loss.item() == pytest.approx(exact.item(), rel=2e-2)
    out.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())

"""One vector per image, of checkpoints, timm networks, random weights and raw pixels."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from fcmae import load_model
from fcmae.analysis.features import Embedder, embedder, fresh_weights, raw_pixels
from fcmae.analysis.names import parse_names
from fcmae.analysis.subjects import LoadOptions, load_subject
from fcmae.data.labeled import labeled_digits
from fcmae.data.normalizer import Normalizer
from fcmae.errors import UserError
from fcmae.runs.layout import HEADER
from tests.fcmae.small_runs import save_run

CPU = torch.device("cpu")


def network_of(name: str) -> Embedder:
    return embedder(parse_names([name])[0], CPU)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"in_chans": 2, "use_layer_scale": True, "use_grn": False},
        {"stem_stride": 2},
        {"name": "convnext_tiny"},
        {"name": "convnext_isotropic_small", "stem_stride": 8},
    ],
)
def test_a_checkpoints_features_are_the_encoders(tmp_path: Path, config: dict[str, Any]) -> None:
    """The dense network, pooled = the mean over all patches of the sparse encoder that sees everything."""
    run = save_run(tmp_path / "run", **config)
    chans = config.get("in_chans", 3)
    images = torch.randn(2, chans, 32, 32)
    network = network_of(str(run))
    model = load_model(run)
    grid = 32 // model.patch_size
    with torch.no_grad():
        ours = network.embed(images)
        expected = model.encoder(images, torch.ones(2, grid, grid, dtype=torch.bool)).mean((2, 3))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert (network.in_chans, network.image_hw) == (chans, (32, 32))
    assert network.fresh is not None
    with torch.no_grad():
        assert not torch.allclose(network.fresh().embed(images), ours, atol=0.1 * float(ours.std()))


@pytest.mark.parametrize(
    "kwargs", [{}, {"use_grn": False, "ls_init_value": 1e-6}, {"num_classes": 3}, {"in_chans": 7, "conv_mlp": True}]
)
def test_fresh_weights_are_those_that_training_begins_with(kwargs: dict[str, Any]) -> None:
    """As timm draws them: every parameter anew, of timm's mean and deviation; the given network stays."""
    network = timm.create_model("convnextv2_atto", **({"num_classes": 0} | kwargs))
    for parameter in network.parameters():
        torch.nn.init.constant_(parameter, 5.0)
    fresh = fresh_weights(network, seed=0)
    as_timm = timm.create_model("convnextv2_atto", **({"num_classes": 0} | kwargs))
    for (name, ours), theirs in zip(fresh.named_parameters(), as_timm.parameters(), strict=True):
        torch.testing.assert_close(ours.mean(), theirs.mean(), atol=2e-3, rtol=0, msg=name)
        torch.testing.assert_close(ours.std(), theirs.std(), atol=2e-3, rtol=0, msg=name)
    assert all((parameter == 5).all() for parameter in network.parameters())
    again, other = fresh_weights(network, seed=0), fresh_weights(network, seed=1)
    assert torch.equal(fresh.stem[0].weight, again.stem[0].weight)
    assert not torch.equal(fresh.stem[0].weight, other.stem[0].weight)


def test_random_weights_leave_the_generator_alone() -> None:
    """They are those of the seed; what the caller draws next is as if nothing had been loaded."""
    torch.manual_seed(5)
    network = timm.create_model("convnextv2_atto", num_classes=0)
    before = torch.get_rng_state()
    subject = load_subject(parse_names(["convnextv2_atto"])[0], LoadOptions(seed=5))
    fresh_weights(network, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(subject.model.stem[0].weight, network.stem[0].weight)  # type: ignore[index]


def test_only_convnexts_have_known_fresh_weights() -> None:
    with pytest.raises(UserError, match=r"the initialization of cls_token, pos_embed"):
        fresh_weights(timm.create_model("vit_tiny_patch16_224", num_classes=0), seed=0)


def test_a_run_brings_its_normalization(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run", in_chans=1)
    (run / "config.yaml").write_text(f"{HEADER}\ndata: {{mean: [0.25], std: [2.0]}}\n")
    network = network_of(str(run))
    assert network.normalize == Normalizer((0.25,), (2.0,))
    assert network.fresh is not None
    assert network.fresh().normalize == network.normalize


def test_timm_names_are_networks_too() -> None:
    """ConvNeXts pool the last map without the head's norm; others as timm pools them."""
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.manual_seed(0)
        ours = network_of("convnext_atto")
        torch.manual_seed(0)
        theirs = timm.create_model("convnext_atto", num_classes=0).eval()
        torch.testing.assert_close(ours.embed(images), theirs.forward_features(images).mean((2, 3)))
        assert ours.fresh is None
        assert "random" in ours.name
        tokens = network_of("vit_tiny_patch16_224")
        assert tokens.embed(torch.randn(2, 3, 224, 224)).shape == (2, 192)
        assert (tokens.image_hw, tokens.takes_no_other, ours.takes_no_other) == ((224, 224), True, False)
        smaller = embedder(parse_names(["vit_tiny_patch16_224"])[0], CPU, LoadOptions(img_size=64))
        assert smaller.embed(images).shape == (2, 192)


def test_raw_pixels_are_averaged() -> None:
    images = torch.rand(2, 3, 32, 32)
    expected = images.view(2, 3, 16, 2, 16, 2).mean((3, 5)).flatten(1)
    torch.testing.assert_close(raw_pixels(3).embed(images), expected)


def test_features_that_are_not_numbers_are_refused() -> None:
    network = raw_pixels(3)
    damaged = Embedder("damaged", lambda images: network.embed(images) / 0, 3, network.normalize)
    with pytest.raises(UserError, match="damaged gives features that are not finite"):
        damaged.features(labeled_digits(limit=5).train, (8, 8), 5, CPU)

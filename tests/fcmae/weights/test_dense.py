"""create_dense: timm networks that are ready to use, whatever the channels, classifier, stem and output."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor

import fcmae
from fcmae.convert import convert
from fcmae.errors import UserError
from fcmae.models import FCMAE
from fcmae.pretrain import main
from tests.fcmae.small_runs import save_run
from tests.models.test_encoder import randomize


def atto(**options: object) -> FCMAE:
    model = fcmae.create_model("convnextv2_atto", decoder_dim=16, **options).eval()
    randomize(model)
    return model


def close(got: Tensor, wanted: Tensor, tolerance: float = 1e-5) -> bool:
    return bool((got - wanted).norm() < tolerance * wanted.norm())


@pytest.mark.parametrize("stem_stride", [1, 2, 4])
@torch.no_grad()
def test_features_only_gives_every_stage(stem_stride: int) -> None:
    """Channels, reductions and values of the four maps; the last is the sparse encoder's output."""
    model = atto(stem_stride=stem_stride, img_size=64)
    images = torch.randn(2, 3, 64, 96)
    backbone = fcmae.create_dense(model.state_dict(), features_only=True).eval()
    maps = backbone(images)
    assert backbone.feature_info.channels() == [40, 80, 160, 320]
    assert backbone.feature_info.reduction() == [stem_stride * 2**s for s in range(4)]
    for features, reduction in zip(maps, backbone.feature_info.reduction(), strict=True):
        assert features.shape[2:] == (64 // reduction, 96 // reduction)
    patch = model.patch_size
    visible = torch.ones(2, 64 // patch, 96 // patch, dtype=torch.bool)
    assert close(maps[-1], model.encoder(images, visible))
    some = fcmae.create_dense(model.state_dict(), features_only=True, out_indices=(1, 3)).eval()(images)
    assert [torch.equal(a, b) for a, b in zip(some, (maps[1], maps[3]), strict=True)] == [True, True]


@pytest.mark.parametrize("name", ["convnextv2_atto", "convnext_isotropic_small"])
def test_numbers_are_drawn_for_a_fresh_classifier_alone(name: str) -> None:
    """Drawing the first weights of a huge network takes ten seconds; those of a norm are ones and zeros."""
    with torch.device("meta"):
        shapes = fcmae.create_model(name, decoder_dim=16).encoder.state_dict()
    state = fcmae.convert_to_dense({f"encoder.{name}": torch.randn(one.shape) for name, one in shapes.items()})
    before = torch.get_rng_state()
    network = fcmae.create_dense(state)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one, state[name]) for name, one in network.state_dict().items() if name in state)
    assert (network.head.norm.weight.tolist(), network.head.norm.bias.tolist()) == (
        [1] * len(network.head.norm.weight), [0] * len(network.head.norm.weight),
    )  # fmt: skip
    assert network.training and all(one.requires_grad for one in network.parameters())  # noqa: PT018
    torch.manual_seed(0)
    fresh = fcmae.create_dense(state, num_classes=5)
    torch.manual_seed(0)
    wanted = timm.create_model(name, num_classes=5)
    assert torch.equal(fresh.head.fc.weight, wanted.head.fc.weight)


@pytest.mark.parametrize("in_chans", [1, 3, 4, 7])
def test_the_first_convolution_is_adapted_as_timm_does(in_chans: int) -> None:
    """1: the sum over the colors; others: repeated, scaled by 3 / in_chans."""
    kernel = atto().encoder.stem[0].weight.detach()
    state = {"model": fcmae.convert_to_dense({"encoder." + k: v for k, v in atto().encoder.state_dict().items()})}
    state["model"]["stem.0.weight"] = kernel
    got = fcmae.create_dense(state, in_chans=in_chans).stem[0].weight
    if in_chans == 1:
        wanted = kernel.sum(1, keepdim=True)
    else:
        wanted = torch.stack([kernel[:, c % 3] for c in range(in_chans)], 1) * (3 / in_chans)
    torch.testing.assert_close(got, wanted)
    sparse = fcmae.create_model("convnextv2_atto", in_chans=in_chans, decoder_dim=16)
    fcmae.load_encoder(sparse, state)
    torch.testing.assert_close(sparse.encoder.stem[0].weight, wanted)


def test_channels_that_are_not_red_green_and_blue_are_not_guessed() -> None:
    state = atto(in_chans=5).state_dict()
    assert fcmae.create_dense(state).stem[0].in_channels == 5
    with pytest.raises(ValueError, match="takes images of 5 channels, expected 3"):
        fcmae.create_dense(state, in_chans=3)


def test_classifiers(caplog: pytest.LogCaptureFixture) -> None:
    """One of the same number of classes is taken, another is fresh, and none is said."""
    tuned = timm.create_model("convnextv2_atto", num_classes=7)
    randomize(tuned)
    state = tuned.state_dict()
    assert torch.equal(fcmae.create_dense(state, num_classes=7).head.fc.weight, tuned.head.fc.weight)
    with caplog.at_level("INFO"):
        assert fcmae.create_dense(state, num_classes=9).head.fc.weight.shape == (9, 320)
        features = fcmae.create_dense(state)
    assert caplog.text.count("head.fc.weight and head.fc.bias are not used") == 2
    assert torch.equal(features.head.norm.weight, tuned.head.norm.weight)
    assert features(torch.randn(1, 3, 64, 64)).shape == (1, 320)


@pytest.mark.parametrize(
    ("options", "grn", "gamma"),
    [({"use_grn": False}, False, False), ({"use_layer_scale": True}, True, True)],
)
@torch.no_grad()
def test_ablations_are_built(options: dict[str, bool], grn: bool, gamma: bool) -> None:
    model = atto(**options)
    dense = fcmae.create_dense(model.state_dict()).eval()
    names = [name for name, _ in dense.named_parameters()]
    assert any("grn" in name for name in names) is grn
    assert any(name.endswith("gamma") for name in names) is gamma
    images = torch.randn(1, 3, 64, 64)
    assert close(dense.forward_features(images), model.encoder(images, torch.ones(1, 2, 2, dtype=torch.bool)))


def test_other_arguments_reach_timm() -> None:
    dense = fcmae.create_dense(atto().state_dict(), drop_path_rate=0.3)
    assert dense.stages[3].blocks[1].drop_path.drop_prob == pytest.approx(0.3)
    assert dense.training


def test_a_run_tells_how_its_images_are_normalized(tiny_args: Callable[..., list[str]], tmp_path: Path) -> None:
    more = ("--data.mean", "[0.1,0.2,0.3]", "--data.std", "[0.5,0.6,0.7]", "--train.epochs", "2")
    assert main(tiny_args("run", *more)) == 0
    config = resolve_model_data_config(fcmae.create_dense(tmp_path / "run"))
    assert (config["mean"], config["std"]) == ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    assert fcmae.load_model(tmp_path / "run").mask_ratio == 0.6


def test_a_classifier_without_its_norm_is_not_whole() -> None:
    """It would compute something else."""
    state = timm.create_model("convnextv2_atto", num_classes=7).state_dict()
    for lost in (["head.norm.weight", "head.norm.bias"], ["head.fc.bias"], ["head.norm.bias"]):
        with pytest.raises(ValueError, match=rf"missing {lost[0]} \["):
            fcmae.create_dense({name: tensor for name, tensor in state.items() if name not in lost}, 7)


def test_arguments_that_make_another_network_are_one_line() -> None:
    with pytest.raises(ValueError, match=r"does not fit timm's convnextv2_atto with \{'patch_size': 2\}"):
        fcmae.create_dense(atto().state_dict(), patch_size=2)


def test_only_a_runs_own_settings_are_believed(
    tiny_args: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A config.yaml of somebody else's above the file is none of ours; a relative path finds the run's."""
    assert main(tiny_args("run", "--data.mean", "[0.1,0.2,0.3]", "--train.epochs", "2")) == 0
    run = tmp_path / "run"
    last = run / "checkpoints" / (run / "checkpoints" / "last").read_text().strip()
    monkeypatch.chdir(last)
    assert fcmae.create_dense("model.safetensors").pretrained_cfg["mean"] == (0.1, 0.2, 0.3)
    for text in ("data: /datasets/in1k", "data: {mean: 0.5}", "# fcmae\ndata: {mean: [123, 117, 104]}", "[1"):
        (run / "config.yaml").write_text(text)
        assert fcmae.create_dense("model.safetensors").pretrained_cfg["mean"] == (0.485, 0.456, 0.406)


@pytest.mark.parametrize("folder", ["step-00000001", "best"])
def test_a_bit_that_flipped_after_a_checkpoint_was_written(tmp_path: Path, folder: str) -> None:
    """The file can be read; only its checksum tells. Without state.json there is nothing to compare with."""
    saved = next(save_run(tmp_path / "run").rglob("step-*"))
    checkpoint = saved.rename(saved.with_name(folder))
    file = checkpoint / "model.safetensors"
    fcmae.convert_to_dense(checkpoint)
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    for given in (checkpoint, file):
        with pytest.raises(UserError, match=rf"^{file} cannot be read: it was damaged after it was written"):
            fcmae.convert_to_dense(given)
    (checkpoint / "state.json").unlink()
    fcmae.convert_to_dense(checkpoint)


def test_a_fine_tuned_run_stands_for_its_best_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In every command, whatever was saved later; a line says so. Its checkpoints are still there by name."""
    other, run = save_run(tmp_path / "other"), save_run(tmp_path / "run", use_grn=False)  # it has fewer parameters
    checkpoints = run / "checkpoints"
    last, best = next(checkpoints.glob("step-*")), checkpoints / "best"
    shutil.copytree(next(other.rglob("step-*")), best)
    before: Any = fcmae.create_dense(other)
    for given in (run, checkpoints):
        caplog.clear()
        with caplog.at_level(logging.INFO, "fcmae"):
            found: Any = fcmae.create_dense(given)
        assert torch.equal(found.stages[1].blocks[0].mlp.grn.weight, before.stages[1].blocks[0].mlp.grn.weight)
        assert f"{given} was fine-tuned: its best weights by validation, checkpoints/best, are taken" in caplog.text
    written = convert(run, tmp_path / "all.safetensors").source_names
    assert "stages.1.blocks.0.mlp.grn.weight" in written
    caplog.clear()
    newest: Any = fcmae.create_dense(last)
    assert not any("grn" in name for name, _ in newest.named_parameters())
    assert "fine-tuned" not in caplog.text
    (best / "state.json").unlink()  # a folder of the user's own
    assert not any("grn" in name for name in fcmae.convert_to_dense(run))

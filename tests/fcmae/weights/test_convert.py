"""convert_to_dense: our checkpoints, strictly into timm, every size, nothing silently dropped."""

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import fcmae
import fcmae.models.isotropic  # registers names with timm
from fcmae.models.outline import outlined
from fcmae.pretrain import main
from tests.models.test_encoder import randomize


def meta_model(name: str, **options: object) -> fcmae.FCMAE:
    with outlined():
        return fcmae.create_model(name, **options)


def test_a_trained_run_gives_timm_its_features(tiny_args: Callable[..., list[str]], tmp_path: Path) -> None:
    """Run folder → dense timm model: strict but for head.norm; the dense features equal the sparse encoder's."""
    run = tmp_path / "run"
    assert main(tiny_args("run", "--model.stem_stride", "4", "--model.img_size", "64")) == 0
    state = fcmae.convert_to_dense(run)
    dense = timm.create_model("convnextv2_atto", num_classes=0).eval()
    loaded = dense.load_state_dict(state, strict=False)
    assert loaded.missing_keys == ["head.norm.weight", "head.norm.bias"]
    assert loaded.unexpected_keys == []

    model = fcmae.create_model("convnextv2_atto", img_size=64, decoder_dim=16)
    last = run / "checkpoints" / (run / "checkpoints" / "last").read_text().strip()
    from safetensors.torch import load_file

    model.load_state_dict(load_file(last / "model.safetensors"))
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        features = dense.forward_features(images)
        sparse = model.eval().encoder(images, torch.ones(2, 2, 3, dtype=torch.bool))
    torch.testing.assert_close(features, sparse, rtol=1e-4, atol=1e-5)

    for source in (last, last / "model.safetensors", run / "checkpoints", str(run), model.state_dict()):
        again = fcmae.convert_to_dense(source)
        assert again.keys() == state.keys()
        assert all(torch.equal(again[k], state[k]) for k in state)


@pytest.mark.parametrize("name", fcmae.list_models())
def test_names_and_shapes_are_timms_for_every_size(name: str) -> None:
    with outlined():
        dense = timm.create_model(name, num_classes=0).state_dict()
    state = fcmae.convert_to_dense(meta_model(name).state_dict())
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in dense.items() if not k.startswith("head.")}


@pytest.mark.parametrize("stem_stride", [1, 2])
def test_small_stems_fit_timm_with_that_stem(stem_stride: int) -> None:
    model = fcmae.create_model("convnextv2_atto", img_size=32, stem_stride=stem_stride, in_chans=2, decoder_dim=16)
    randomize(model.encoder)
    dense = timm.create_model("convnextv2_atto", num_classes=0, in_chans=2).eval()
    dense.stem[0] = nn.Conv2d(2, 40, stem_stride, stem_stride)
    loaded = dense.load_state_dict(fcmae.convert_to_dense(model.state_dict()), strict=False)
    assert loaded.unexpected_keys == []
    images = torch.randn(1, 2, 32, 48)
    patch = 8 * stem_stride
    visible = torch.ones(1, 32 // patch, 48 // patch, dtype=torch.bool)
    with torch.no_grad():
        expected, got = model.encoder(images, visible), dense.forward_features(images)
    assert (got - expected).norm() < 1e-4 * expected.norm()


def test_idempotent_and_blind_to_wrappers() -> None:
    state = meta_model("convnextv2_atto").state_dict()
    once = fcmae.convert_to_dense(state)
    assert fcmae.convert_to_dense(once).keys() == once.keys()
    for prefix in ("module.", "_orig_mod.", "module._orig_mod."):
        assert fcmae.convert_to_dense({prefix + k: v for k, v in state.items()}).keys() == once.keys()


def test_dtype_is_kept_and_nothing_is_copied() -> None:
    model = fcmae.create_model("convnextv2_atto", decoder_dim=16).to(torch.bfloat16)
    state = fcmae.convert_to_dense(model.state_dict())
    assert {v.dtype for v in state.values()} == {torch.bfloat16}
    assert state["stem.0.weight"].data_ptr() == model.encoder.stem[0].weight.data_ptr()


def test_ablations_are_recognized() -> None:
    state = meta_model("convnextv2_tiny", use_grn=False, use_layer_scale=True).state_dict()
    converted = fcmae.convert_to_dense(state)
    assert "stages.0.blocks.0.gamma" in converted
    assert not [k for k in converted if "grn" in k]


def without(state: dict, *keys: str) -> dict:
    return {k: v for k, v in state.items() if k not in keys}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "encoder.stages.2.blocks.3.norm.weight"), "missing encoder.stages.2.blocks.3.norm.w"),
        (lambda s: without(s, "encoder.stages.0.blocks.1.mlp.grn.bias"), "missing encoder.stages.0.blocks.1.mlp.grn.b"),
        (lambda s: s | {"encoder.stages.0.extra": torch.zeros(1)}, "unknown encoder.stages.0.extra"),
        (
            lambda s: s | {"encoder.stages.0.blocks.0.conv_dw.weight": torch.zeros(40, 1, 5, 5)},
            r"conv_dw.weight is \[40, 1, 5, 5\], expected \[40, 1, 7, 7\]",
        ),
        (
            lambda s: {k: v for k, v in s.items() if ".stages.3.blocks.1." not in k},
            r"no size has depths \(2, 2, 6, 1\)",
        ),
        (lambda s: without(s, "encoder.stem.0.weight"), "missing encoder.stem.0.weight"),
        (lambda _: {"conv1.weight": torch.zeros(64, 3, 7, 7)}, "holds no ConvNeXt encoder of .*, but conv1.weight"),
        (lambda _: {}, "holds no ConvNeXt encoder of .*, but nothing"),
        (lambda s: s | {"epoch": 3}, "not tensors: epoch"),
    ],
)
def test_what_is_not_one_whole_encoder_raises_and_names_it(change: Callable[[dict], dict], message: str) -> None:
    state = meta_model("convnextv2_atto").state_dict()
    with pytest.raises(ValueError, match=message):
        fcmae.convert_to_dense(change(dict(state)))


def test_wrong_paths_and_formats(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="format must be one of timm, official, transformers, mmpretrain, got 'onnx'"):
        fcmae.convert_to_dense(tmp_path, format="onnx")
    with pytest.raises(ValueError, match="has no checkpoint in it"):
        fcmae.convert_to_dense(tmp_path)
    with pytest.raises(ValueError, match=r"missing\.safetensors does not exist"):
        fcmae.convert_to_dense(tmp_path / "missing.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(ValueError, match=r"cut\.safetensors cannot be read"):
        fcmae.convert_to_dense(tmp_path / "cut.safetensors")

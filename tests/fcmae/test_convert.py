"""python -m fcmae.convert: folders that timm and transformers load by themselves, nothing overwritten unasked."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import resolve_model_data_config

import fcmae
from fcmae.convert import conversion_table, convert, main
from fcmae.errors import UserError
from fcmae.models import FCMAE
from fcmae.pretrain import main as pretrain
from tests.models.test_encoder import randomize


@pytest.fixture(scope="module", params=["convnextv2_atto", "convnext_tiny"])
def model(request: pytest.FixtureRequest) -> FCMAE:
    model = fcmae.create_model(request.param, decoder_dim=16).eval()
    randomize(model)
    return model


@pytest.fixture
def source(model: FCMAE, tmp_path: Path) -> Path:
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "source.safetensors")
    return tmp_path / "source.safetensors"


def expected(model: FCMAE, images: torch.Tensor) -> torch.Tensor:
    return model.encoder(images, torch.ones(len(images), 2, 2, dtype=torch.bool))


@torch.no_grad()
def test_timm_loads_the_folder(model: FCMAE, source: Path, tmp_path: Path) -> None:
    assert main([str(source), str(tmp_path / "out"), "--format", "timm"]) == 0
    loaded = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    images = torch.randn(2, 3, 64, 64)
    wanted = expected(model, images)
    assert (loaded.forward_features(images) - wanted).norm() < 1e-5 * wanted.norm()
    assert loaded(images).shape == (2, model.encoder.num_features)
    assert resolve_model_data_config(loaded)["mean"] == [0.485, 0.456, 0.406]
    tuned = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True, num_classes=5)
    assert tuned.head.fc.weight.shape == (5, model.encoder.num_features)


@torch.no_grad()
def test_transformers_loads_the_folder(
    model: FCMAE, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([str(source), str(tmp_path / "out"), "--format", "transformers"]) == 0
    folder = str(tmp_path / "out")
    loaded, told = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    images = torch.randn(2, 3, 64, 64)
    wanted = expected(model, images)
    assert (loaded.eval()(images).last_hidden_state - wanted).norm() < 1e-5 * wanted.norm()

    # transformers 5 asks the hub whether the folder is a repository before it looks at the disk
    class Hub:
        def repo_exists(self, _name: str) -> bool:
            return True

    monkeypatch.setattr("transformers.models.auto.auto_factory.hf_api", Hub, raising=False)
    backbone = transformers.AutoBackbone.from_pretrained(folder, out_features=["stage2", "stage4"]).eval()
    maps = backbone(images).feature_maps
    dense = fcmae.create_dense(model.state_dict(), features_only=True, out_indices=(1, 3)).eval()(images)
    for got, features, name in zip(maps, dense, ("stage2", "stage4"), strict=True):
        norm = backbone.hidden_states_norms[name]
        assert (got - norm(features)).norm() < 1e-4 * got.norm()

    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    pixels = processor(Image.fromarray(np.zeros((300, 400, 3), np.uint8)), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 224, 224)
    torch.testing.assert_close(
        pixels[0, :, 0, 0], -torch.tensor([0.485, 0.456, 0.406]) / torch.tensor([0.229, 0.224, 0.225])
    )


@pytest.mark.parametrize("format", ["timm", "official", "transformers", "mmpretrain"])
@pytest.mark.parametrize("name", ["out", "out.safetensors", "out.pth"])
def test_there_and_back_through_files(model: FCMAE, source: Path, tmp_path: Path, format: str, name: str) -> None:
    assert main([str(source), str(tmp_path / name), "--format", format]) == 0
    assert main([str(tmp_path / name), str(tmp_path / "again.safetensors"), "--format", "timm"]) == 0
    again = load_file(tmp_path / "again.safetensors")
    for key, tensor in model.encoder.state_dict().items():
        assert torch.equal(again[key], tensor), key


def test_a_classifier_goes_along(tmp_path: Path) -> None:
    tuned = timm.create_model("convnextv2_atto", num_classes=4).eval()
    randomize(tuned)
    save_file(tuned.state_dict(), tmp_path / "tuned.safetensors")
    assert main([str(tmp_path / "tuned.safetensors"), str(tmp_path / "hf"), "--format", "transformers"]) == 0
    theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "hf").eval()
    assert main([str(tmp_path / "hf"), str(tmp_path / "timm")]) == 0
    ours = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        wanted = tuned(images)
        torch.testing.assert_close(theirs(images).logits, wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours(images), wanted)


def test_verbose_says_what_went_where(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([str(source), str(tmp_path / "out"), "--format", "official", "--verbose"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:3] == ["encoder.stem.0.weight", "→", "downsample_layers.0.0.weight"] for line in lines)
    assert main([str(source), str(tmp_path / "timm"), "--verbose"]) == 0
    assert "(starts as 1 and 0)" in capsys.readouterr().out
    assert any(line.startswith("decoder.mask_token ") and line.endswith("no place in the target") for line in lines)


def test_nothing_is_overwritten_unasked(source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("out", "out.safetensors"):
        assert main([str(source), str(tmp_path / name)]) == 0
        assert main([str(source), str(tmp_path / name)]) == 1
        assert f"{name} exists; give another DST, or --overwrite" in caplog.text
        assert main([str(source), str(tmp_path / name), "--overwrite"]) == 0
    assert not list(tmp_path.rglob(".new-*"))


def test_what_a_folder_cannot_say_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = fcmae.create_model("convnextv2_atto", stem_stride=2, img_size=64, decoder_dim=16)
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    assert main([str(tmp_path / "a.safetensors"), str(tmp_path / "out")]) == 1
    assert "a stem of stride 2, which timm cannot build from a folder; use fcmae.create_dense" in caplog.text
    assert not (tmp_path / "out").exists()
    assert main([str(tmp_path / "nowhere.pth"), str(tmp_path / "out")]) == 1
    assert "nowhere.pth does not exist" in caplog.text


def test_help_and_wrong_formats(capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "--format {timm,official,transformers,mmpretrain}" in capsys.readouterr().out
    assert main(["a", "b", "--format", "onnx"]) == 1
    assert (
        "--format: Expected one of ['timm', 'official', 'transformers', 'mmpretrain']. Got value: onnx" in caplog.text
    )


@torch.no_grad()
def test_a_stem_of_stride_1_has_its_place_in_a_timm_folder(tmp_path: Path) -> None:
    model = fcmae.create_model("convnextv2_atto", stem_stride=1, img_size=32, in_chans=2, decoder_dim=16).eval()
    randomize(model)
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    assert main([str(tmp_path / "a.safetensors"), str(tmp_path / "out")]) == 0
    loaded = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    images = torch.randn(1, 2, 16, 24)
    wanted = model.encoder(images, torch.ones(1, 2, 3, dtype=torch.bool))
    assert (loaded.forward_features(images) - wanted).norm() < 1e-5 * wanted.norm()


def test_a_run_is_never_written_over(
    tiny_args: Callable[..., list[str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert pretrain(tiny_args("run", "--train.epochs", "2", "--data.mean", "[0.1,0.2,0.3]")) == 0
    run = tmp_path / "run"
    last = run / "checkpoints" / (run / "checkpoints" / "last").read_text().strip()
    for place in (run, last):
        assert main([str(run), str(place), "--overwrite"]) == 1
        assert f"{place} holds a run or a checkpoint, which would be lost" in caplog.text
    caplog.clear()
    assert main([str(run), str(last / "model.safetensors"), "--overwrite"]) == 1  # the run's own weights
    assert f"{last} holds a run or a checkpoint" in caplog.text
    (tmp_path / "state.json").write_text("{}")  # of something else
    assert main([str(run), str(tmp_path / "beside")]) == 0
    again, model = fcmae.FCMAE.from_pretrained(run), fcmae.load_model(run)
    assert model.decoder.pred.out_features == 3 * 8**2
    assert not again.training
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    # what the run knows of its images goes along, also through another library's folder
    assert main([str(run), str(tmp_path / "hf"), "--format", "transformers"]) == 0
    assert fcmae.create_dense(tmp_path / "hf").pretrained_cfg["mean"] == (0.1, 0.2, 0.3)
    assert main([str(tmp_path / "hf"), str(tmp_path / "timm")]) == 0
    assert fcmae.create_dense(tmp_path / "timm").pretrained_cfg["mean"] == (0.1, 0.2, 0.3)
    assert main([str(run), str(tmp_path / "hf"), "--format", "official", "--overwrite"]) == 0
    assert {file.name for file in (tmp_path / "hf").iterdir()} == {"README.md", "model.safetensors"}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("a user's, of something else")
    assert main([str(run), str(tmp_path / "mine"), "--format", "official", "--overwrite"]) == 0
    assert (tmp_path / "mine" / "config.json").read_text() == "a user's, of something else"


def test_a_place_that_cannot_be_written_to_is_one_line(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("/proc/none/a.safetensors", "/proc/none/a.pth", "/proc/none"):
        assert main([str(source), name]) == 1
    assert "Traceback" not in caplog.text


def test_tensors_that_share_memory_are_written(tmp_path: Path) -> None:
    state = fcmae.convert_to_dense(fcmae.create_model("convnextv2_atto", decoder_dim=1).state_dict())
    state["stages.0.blocks.1.norm.weight"] = state["stages.0.blocks.0.norm.weight"]
    torch.save(state, tmp_path / "tied.pth")
    assert main([str(tmp_path / "tied.pth"), str(tmp_path / "a.safetensors")]) == 0
    norm = {"head.norm.weight", "head.norm.bias"}
    assert load_file(tmp_path / "a.safetensors").keys() == state.keys() | norm


def test_from_python(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The tensors that the files hold, and where they are from; the command prints the same."""
    found = convert(source, tmp_path / "python", format="official")
    assert capsys.readouterr().out == ""
    assert found.files == (tmp_path / "python" / "model.safetensors", tmp_path / "python" / "README.md")
    assert found.usage == f'safetensors.torch.load_file("{found.files[0]}")'
    written, given = load_file(found.files[0]), load_file(source)
    assert written.keys() == found.state.keys() == found.source_names.keys()
    for name, tensor in found.state.items():
        assert torch.equal(tensor, written[name])
        assert torch.equal(tensor.flatten(), given[found.source_names[name]].flatten())
    assert set(found.left) | set(found.source_names.values()) == given.keys()
    assert main([str(source), str(tmp_path / "cli"), "--format", "official", "--verbose"]) == 0
    files = f"{tmp_path}/cli/model.safetensors, {tmp_path}/cli/README.md"
    summary = f"{found.model}: {len(written)} tensors from fcmae to official: {files}\n"
    usage = f'to use it: safetensors.torch.load_file("{tmp_path}/cli/model.safetensors")\n'
    assert capsys.readouterr().out == conversion_table(found) + summary + usage
    alone = convert(source, tmp_path / "alone.safetensors")
    assert (alone.usage, alone.format, alone.source_format) == (None, "timm", "fcmae")
    with pytest.raises(
        UserError,
        match=r"--format: Expected one of \['timm', 'official', 'transformers', 'mmpretrain'\]. Got value: onnx",
    ):
        convert(source, tmp_path / "x", format="onnx")
    with pytest.raises(UserError, match=r"alone.safetensors exists"):
        convert(source, tmp_path / "alone.safetensors")


@torch.no_grad()
def test_an_isotropic_network_in_a_timm_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """timm builds it once fcmae.models.isotropic is imported, which the card and the command say."""
    model = fcmae.create_model("convnext_isotropic_small", stem_stride=8, in_chans=2, use_grn=True, decoder_dim=4)
    randomize(model.eval())
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    assert main([str(tmp_path / "a.safetensors"), str(tmp_path / "out")]) == 0
    assert "to use it: import fcmae.models.isotropic; timm.create_model" in capsys.readouterr().out
    assert "import fcmae.models.isotropic\n" in (tmp_path / "out" / "README.md").read_text()
    images = torch.randn(1, 2, 16, 24)
    wanted = model.encoder(images, torch.ones(1, 2, 3, dtype=torch.bool))
    for options in ({}, {"features_only": True}):
        loaded = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True, **options).eval()
        got = loaded(images)[0] if options else loaded.forward_features(images)
        assert (got - wanted).norm() < 1e-5 * wanted.norm()

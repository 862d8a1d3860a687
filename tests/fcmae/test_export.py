"""fcmae export: what ONNX Runtime computes from the file, where it is written, and what the file says of its images."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import fcmae
from fcmae.convert import convert
from fcmae.data.images import open_image
from fcmae.data.normalizer import Normalizer
from fcmae.errors import UserError
from fcmae.export import export, main
from fcmae.finetune import finetune
from fcmae.finetuning.samples import validation_crop
from fcmae.models.sizes import SIZES, Size
from fcmae.predict import predict
from fcmae.weights import onnx as weights_onnx
from tests.fcmae.small_runs import save_run
from tests.models.test_encoder import randomize


def run(file: Path, images: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": images.numpy()})
    return torch.from_numpy(np.asarray(found))


def metadata(file: Path) -> dict[str, Any]:
    return {entry.key: json.loads(entry.value) for entry in onnx.load(file).metadata_props}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, Path]:
    """A classifier, and a run folder that holds it as fine-tuning exports it."""
    network = timm.create_model("convnextv2_atto", num_classes=3, in_chans=2).eval()
    randomize(network)
    folder = tmp_path_factory.mktemp("tuned")
    save_file(network.state_dict(), folder / "a.safetensors")
    exported = folder / "run" / "export" / "timm"
    convert(folder / "a.safetensors", exported)
    config = json.loads((exported / "config.json").read_text())
    config |= {"label_names": ["ant", "bee", "wasp"]}
    config["pretrained_cfg"] |= {"mean": [0.1, 0.2], "std": [0.3, 0.4], "input_size": [2, 64, 96]}
    (exported / "config.json").write_text(json.dumps(config))
    (folder / "run" / "config.yaml").write_text("# fcmae 0\n")
    return network, folder / "run"


@torch.no_grad()
def test_a_classifier_of_a_fine_tuned_run(tuned: tuple[torch.nn.Module, Path], capsys: pytest.CaptureFixture) -> None:
    """Logits for any number of images, within 1e-4 of PyTorch's; class names and normalization in the file."""
    network, folder = tuned
    file = folder / "export" / "model.onnx"
    assert main([str(folder)]) == 0  # of the size that the exported folder states
    assert "convnextv2_atto: images [B, 2, 64, 96] → logits; ONNX Runtime differs from" in capsys.readouterr().out
    for count in (1, 4):
        images = torch.randn(count, 2, 64, 96)
        wanted = network(images)
        assert (run(file, images) - wanted).norm() < 1e-4 * wanted.norm()
    assert metadata(file) == {
        "model": "convnextv2_atto", "mean": [0.1, 0.2], "std": [0.3, 0.4], "crop_pct": 0.875,
        "classes": ["ant", "bee", "wasp"], "multi_label": False,
    }  # fmt: skip
    assert not list(file.parent.glob(".new-*"))
    before = file.stat().st_mtime_ns
    with pytest.raises(UserError, match=r"export/model\.onnx exists; give another --output, or --overwrite"):
        export(folder)
    assert file.stat().st_mtime_ns == before


@torch.no_grad()
def test_a_pretrained_run_gives_the_features_that_evaluate_scores(tmp_path: Path) -> None:
    folder = save_run(tmp_path / "run", stem_stride=2)
    result = export(folder)
    assert result.files == (folder / "export" / "model.onnx",)
    assert (result.output, result.input_shape) == ("features", (3, 32, 32))
    assert result.difference <= 1e-4
    images = torch.randn(2, 3, 32, 32)
    wanted = fcmae.load_model(folder).encoder(images, torch.ones(2, 2, 2, dtype=torch.bool)).mean((2, 3))
    assert (run(result.files[0], images) - wanted).norm() < 1e-4 * wanted.norm()


def test_a_run_of_fine_tuning_gives_what_predict_gives(colors: Path, tmp_path: Path) -> None:
    """Of its best weights, though an export of earlier ones is there."""
    folder, settings = tmp_path / "run", {"img_size": 32, "batch_size": 8, "num_workers": 0, "config": "few_labels"}
    finetune("scratch", data=str(colors), output=str(folder), epochs=1, base_lr=0.1, **settings)
    older = folder / "export" / "timm" / "model.safetensors"
    save_file({name: torch.zeros_like(tensor) for name, tensor in load_file(older).items()}, older)
    result = export(folder)
    assert (result.output, result.input_shape) == ("logits", (3, 32, 32))
    predicted = predict(folder, colors, num_workers=0)
    said = metadata(result.files[0])
    assert said["classes"] == list(predicted.classes) == ["blue", "green", "red"]
    normalize = Normalizer(tuple(said["mean"]), tuple(said["std"]))
    crops = [normalize(validation_crop(open_image(colors / name), (32, 32), 0.875)) for name in predicted.paths[:5]]
    found = run(result.files[0], torch.stack(crops)).softmax(1)
    assert torch.allclose(found, predicted.probabilities[:5], atol=1e-4)
    assert not torch.allclose(found[0], found[4], atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("name", ["convnext_tiny", "convnextv2_tiny"])
def test_blocks_of_both_versions(tmp_path: Path, name: str) -> None:
    """V1's LayerScale and V2's GRN, of narrow networks with the linear layers of large ones."""
    small: dict[str, Any] = {"depths": (1, 2, 1, 1), "dims": (4, 4, 8, 8)}
    network = timm.create_model(name, num_classes=3, **small).eval()
    randomize(network)
    weights_onnx.write_onnx(network, (3, 32, 64), "logits", tmp_path / "a.onnx", {})
    images = torch.randn(3, 3, 32, 64)
    wanted = network(images)
    assert (run(tmp_path / "a.onnx", images) - wanted).norm() < 1e-4 * wanted.norm()


@torch.no_grad()
def test_an_isotropic_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "convnext_isotropic_small"
    monkeypatch.setitem(SIZES, name, Size((2,), (8,), stem_stride=16))
    folder = save_run(tmp_path / "run", name=name, img_size=64, stem_stride=16)
    result = export(folder)
    assert (result.model, result.output, result.input_shape) == (name, "features", (3, 64, 64))
    images = torch.randn(2, 3, 64, 64)
    wanted = fcmae.load_model(folder).encoder(images, torch.ones(2, 4, 4, dtype=torch.bool)).mean((2, 3))
    assert (run(result.files[0], images) - wanted).norm() < 1e-4 * wanted.norm()


def test_a_file_that_computes_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(*_: object) -> torch.Tensor:
        return torch.ones(2, 3)

    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 3))
    monkeypatch.setattr(weights_onnx, "_outputs", other)
    with pytest.raises(UserError, match=r"a\.onnx is not written: ONNX Runtime's logits differ from PyTorch's by"):
        weights_onnx.write_onnx(network, (3, 32, 32), "logits", tmp_path / "a.onnx", {})
    assert not list(tmp_path.iterdir())


def test_names_of_another_number_of_classes_are_left_out(
    tuned: tuple[torch.nn.Module, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A classes.json that happens to lie above the weights."""
    weights = tmp_path / "weights" / "a.safetensors"
    weights.parent.mkdir()
    save_file(tuned[0].state_dict(), weights)
    (tmp_path / "classes.json").write_text(json.dumps({"classes": ["one", "two"]}))
    written: list[dict] = []

    def write(_graph: object, _shape: object, _output: object, file: Path, said: dict) -> weights_onnx.Written:
        written.append(said)
        return weights_onnx.Written((file,), 0.0)

    monkeypatch.setattr(weights_onnx, "write_onnx", write)
    export(weights)
    assert "classes" not in written[0]


def test_missing_libraries_are_named(
    tuned: tuple[torch.nn.Module, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else there(name))
    with pytest.raises(UserError, match=r"--format onnx needs onnxscript: pip install 'fcmae\[onnx\]'"):
        export(tuned[1], output=tmp_path / "a.onnx")


@torch.no_grad()
def test_features_of_a_classifier_are_what_its_last_layer_sees() -> None:
    images = torch.randn(2, 3, 32, 32)
    small = {"depths": (1, 1, 1, 1), "dims": (4, 4, 4, 4)}
    network = timm.create_model("convnextv2_atto", num_classes=3, **small).eval()
    randomize(network)
    seen = weights_onnx.Features(network)(images)
    torch.testing.assert_close(network.head.fc(seen), network(images))
    plain = timm.create_model("convnextv2_atto", num_classes=0, **small).eval()
    plain.load_state_dict(network.state_dict(), strict=False)
    torch.testing.assert_close(weights_onnx.Features(plain)(images), plain.forward_features(images).mean((2, 3)))


def test_images_that_are_too_small_are_one_line(tmp_path: Path) -> None:
    network = timm.create_model("convnextv2_atto", num_classes=3, depths=(1, 1, 1, 1), dims=(4, 4, 4, 4))
    with pytest.raises(UserError, match=r"--img_size 8,8: the network cannot take it: "):
        weights_onnx.write_onnx(network, (3, 8, 8), "logits", tmp_path / "a.onnx", {})
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to_is_named_first(tmp_path: Path) -> None:
    """It was a temporary name, after the work."""
    (tmp_path / "text").write_text("none")
    save_run(tmp_path / "run")
    file = tmp_path / "text" / "m.onnx"
    with pytest.raises(UserError, match=rf"^--output {file} cannot be written: {tmp_path}/text is not a folder$"):
        export(tmp_path / "run", output=file)

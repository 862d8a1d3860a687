"""What folders of weights state beside them: the same whoever writes the folder, and what transformers makes of it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
from PIL import Image

import fcmae
from fcmae.convert import convert
from fcmae.data.crop_share import crop_share
from fcmae.data.images import open_image
from fcmae.data.normalizer import Normalizer
from fcmae.finetuning.best import best_folder
from fcmae.finetuning.classes import write_classes
from fcmae.finetuning.export import export
from fcmae.finetuning.samples import validation_crop
from fcmae.models import ModelConfig
from fcmae.runs.checkpoint import TrainState, save_model, write_state
from fcmae.weights.read import read_weights
from fcmae.weights.stated import stated_beside

CLASSES = ["ant", "bee", "wäsp"]


def tuned(folder: Path, image_hw: tuple[int, int], crop_pct: float | None, multi_label: bool = False) -> Path:
    """A run of fine-tuning with best weights, as far as reading it goes."""
    network = timm.create_model("convnextv2_atto", num_classes=3)
    described = ModelConfig("convnextv2_atto", img_size=image_hw)
    best = best_folder(folder)
    best.mkdir(parents=True)
    save_model(best / "model.safetensors", network, asdict(described))
    write_state(best, TrainState(1, 1, 1))
    said = "null" if crop_pct is None else crop_pct
    (folder / "config.yaml").write_text(f"# fcmae 0\ndata: {{crop_pct: {said}, mean: [0.1, 0.2, 0.3]}}\n")
    write_classes(folder, CLASSES, multi_label)
    return folder


@pytest.mark.parametrize("multi_label", [False, True])
def test_converted_runs_say_what_exported_ones_say(tmp_path: Path, multi_label: bool) -> None:
    run = tuned(tmp_path / "run", (32, 64), 0.9, multi_label)
    export(run)
    for format in ("timm", "transformers"):
        result = convert(run, tmp_path / format, format=format)
        for file in (tmp_path / format).glob("*.json"):
            assert file.read_text() == (run / "export" / format / file.name).read_text()
        for folder in (tmp_path / format, run / "export" / format):
            stated = stated_beside(folder)
            assert (stated.classes, stated.is_multi_label, stated.crop_pct) == (tuple(CLASSES), multi_label, 0.9)
            assert read_weights(folder).config.image_hw == (32, 64)
            dense: Any = fcmae.create_dense(folder)
            assert dense.pretrained_cfg["input_size"] == (3, 32, 64)
        assert result.usage is not None
        assert ("AutoModelForImageClassification" in result.usage) == (format == "transformers")
    assert "wäsp" in (tmp_path / "timm" / "config.json").read_text()
    kinds = [json.loads((tmp_path / name / "config.json").read_text()).get("problem_type") for name in
             ("timm", "transformers")]  # fmt: skip
    assert kinds == ["multi_label_classification" if multi_label else None] * 2


def test_a_size_that_does_not_fit_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is one that lies in the working directory, for weights that are in no file."""
    run = tuned(tmp_path / "run", (64, 64), None)
    convert(run, tmp_path / "timm")
    config = json.loads((tmp_path / "timm" / "config.json").read_text())
    monkeypatch.chdir(tmp_path / "timm")
    assert read_weights(timm.create_model("convnextv2_atto").state_dict()).config.img_size == 224
    for size in ([3, 48, 64], [3, "64", 64], [64, 64], None, [3, 0, 0]):
        config["pretrained_cfg"]["input_size"] = size
        (tmp_path / "timm" / "config.json").write_text(json.dumps(config))
        assert read_weights(tmp_path / "timm").config.img_size == 224


@pytest.mark.parametrize(
    ("image_hw", "crop_pct", "of_image"),
    [
        ((32, 32), None, (80, 100)), ((384, 384), None, (500, 390)), ((384, 384), 0.95, (420, 500)),
        ((32, 64), 0.8, (80, 160)),
    ],
)  # fmt: skip
def test_transformers_preprocesses_as_validation_does(
    tmp_path: Path, image_hw: tuple[int, int], crop_pct: float | None, of_image: tuple[int, int]
) -> None:
    """Up to the rounding of pixels, and half a pixel of the region; a smooth image, so that this is little."""
    from transformers import AutoImageProcessor

    run = tuned(tmp_path / "run", image_hw, crop_pct)
    convert(run, tmp_path / "hf", format="transformers")
    rows, columns = np.mgrid[0 : of_image[0], 0 : of_image[1]]
    image = np.stack([rows / of_image[0], columns / of_image[1], (rows + columns) / sum(of_image)], axis=-1) * 255
    Image.fromarray(image.round().astype(np.uint8)).save(tmp_path / "image.png")
    processor: Any = AutoImageProcessor.from_pretrained(tmp_path / "hf")
    found = processor(Image.open(tmp_path / "image.png"), return_tensors="pt")["pixel_values"][0]
    share = crop_pct or (1.0 if min(image_hw) >= 384 else 0.875)
    crop = validation_crop(open_image(tmp_path / "image.png"), image_hw, share)
    expected = Normalizer((0.1, 0.2, 0.3), (0.229, 0.224, 0.225))(crop)
    assert found.shape == expected.shape
    pixel = max(2 / side for side in image_hw) / 0.22  # a step between pixels, in normalized values
    assert (found - expected).abs().max() < 0.6 * pixel + 2 / 255 / 0.22
    assert (found.mean((1, 2)) - expected.mean((1, 2))).abs().max() < 0.25 * pixel + 0.005


SQUEEZING = {"image_processor_type": "ConvNextImageProcessor", "crop_pct": 0.875}
PREPROCESSORS: list[tuple[dict[str, Any], Any, int | tuple[int, int], float]] = [
    (SQUEEZING | {"size": {"shortest_edge": 384}}, 224, 384, 1.0),
    (SQUEEZING | {"size": {"shortest_edge": 224}}, 224, 224, 0.875),
    ({"feature_extractor_type": "ConvNextFeatureExtractor", "crop_pct": 0.9, "size": 384}, 224, 384, 1.0),
    ({"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 256}, "crop_size": 224}, 224, 224, 0.875),
    (SQUEEZING | {"size": {"shortest_edge": 64}}, [64, 96], (64, 96), 0.875),  # as fcmae wrote it before
    ({}, 256, 256, 0.875),
]


@pytest.mark.parametrize(("preprocessor", "image_size", "size", "share"), PREPROCESSORS)
def test_folders_of_others(
    tmp_path: Path, preprocessor: dict[str, Any], image_size: Any, size: int | tuple[int, int], share: float
) -> None:
    convert(tuned(tmp_path / "run", (64, 64), None), tmp_path / "hf", format="transformers")
    (tmp_path / "hf" / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    config = tmp_path / "hf" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"image_size": image_size}))
    weights = read_weights(tmp_path / "hf")
    assert weights.config.img_size == size
    assert crop_share(stated_beside(tmp_path / "hf").crop_pct, weights.config.image_hw) == share


def test_the_configuration_of_another_network_says_nothing(tmp_path: Path) -> None:
    convert(tuned(tmp_path / "run", (64, 64), None), tmp_path / "mine.safetensors")
    for config in ({"model_type": "vit", "image_size": 384}, {"architecture": "vit_tiny", "pretrained_cfg": {
            "input_size": [3, 384, 384]}}):  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert read_weights(tmp_path / "mine.safetensors").config.img_size == 224

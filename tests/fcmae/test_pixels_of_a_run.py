"""What a run measures of its images is recorded, resumed, exported, and used by every command that reads images."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import yaml
from PIL import Image

from fcmae.analysis.names import parse_names
from fcmae.analysis.subjects import LoadOptions, load_subject
from fcmae.convert import convert
from fcmae.data.pixel_reading import PixelReading
from fcmae.pretrain import main
from fcmae.reconstruct import reconstruct
from fcmae.weights.channels import to_channels
from fcmae.weights.settings import pixel_reading, pixels
from fcmae.weights.weights import Weights
from tests.fcmae.conftest import TINY
from tests.fcmae.small_runs import save_run


def dim_images(folder: Path) -> Path:
    """12-bit camera images of 16-bit type, in which a third band varies and 0 is no data."""
    folder.mkdir()
    r = np.random.default_rng(0)
    for n in range(4):
        array = np.stack([np.full((48, 48), 100.0), np.full((48, 48), 200.0), 110 + 8 * r.normal(size=(48, 48))])
        array[:, :10, : 5 * n] = 0
        tifffile.imwrite(folder / f"{n}.tif", array.astype(np.uint16), photometric="minisblack")
    return folder


def test_from_the_measuring_to_the_exports(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = dim_images(tmp_path / "images")
    run = tmp_path / "run"
    arguments = [*TINY, "--data.path", str(data), "--output", str(run), "--model.in_chans", "1", "--data.bands", "3"]
    arguments += ["--data.nodata", "0", "--train.epochs", "3"]
    assert main(arguments) == 0
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert 0.9 < losses[0] < 1.1
    recorded = yaml.safe_load((run / "config.yaml").read_text())["data"]
    low, high = recorded["value_range"]
    assert 60 < low < 100
    assert 120 < high < 160
    assert 0 < recorded["mean"][0] < 1

    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert main(arguments) == 0  # what is unset is what was measured
        assert main(["--config", str(run / "config.yaml")]) == 0
    assert "measured" not in caplog.text
    assert main([*arguments, "--data.value_range", "0,300"]) == 1
    assert "--data.value_range is" in caplog.messages[-1]

    reading = PixelReading(1, bands=(3,), value_range=(low, high), nodata=0)
    found = pixels(run, 1)
    assert found.reading == reading
    assert found.mean == tuple(recorded["mean"])
    for format in ("timm", "transformers"):
        convert(str(run), str(tmp_path / format), format=format)
        exported = pixels(tmp_path / format, 1)
        assert exported.reading == reading
        assert (exported.mean, exported.std) == (found.mean, found.std)
    processor = json.loads((tmp_path / "transformers" / "preprocessor_config.json").read_text())
    value = 0.4 * low + 0.6 * high
    given = (value * processor["rescale_factor"] - processor["image_mean"][0]) / processor["image_std"][0]
    assert given == pytest.approx((0.6 - found.mean[0]) / found.std[0], rel=1e-4)
    (named,) = parse_names([str(run)])
    assert load_subject(named).reading == reading
    assert load_subject(named, LoadOptions(sparse=True)).reading == reading

    (picture,) = reconstruct(str(run), data=str(data), output=str(tmp_path / "pictures"), mask_ratios=(0.6,))
    top = np.asarray(Image.open(picture.file).convert("L"))[40:150]
    assert 80 < top.mean() < 200  # the originals are neither black nor white


def test_weights_that_say_nothing(tmp_path: Path) -> None:
    assert pixel_reading(save_run(tmp_path / "run"), 3) == PixelReading(3)
    assert pixel_reading(tmp_path / "nothing.pth", 4) == PixelReading(4)
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "preprocessor_config.json").write_text(json.dumps({"rescale_factor": 1 / 65535}))
    assert pixel_reading(folder / "model.safetensors", 1).value_range == (0, pytest.approx(65535))
    (folder / "preprocessor_config.json").write_text(json.dumps({"rescale_factor": 1 / 255}))
    assert pixel_reading(folder / "model.safetensors", 1) == PixelReading(1)


def test_bands_of_weights_for_more_channels() -> None:
    kernel = torch.arange(13.0).view(1, 13, 1, 1).expand(2, 13, 4, 4)
    weights = Weights("the file", "timm", None, encoder={"stem.0.weight": kernel})  # type: ignore[arg-type]
    adapted = to_channels(weights, "stem.0.weight", 3, bands=(4, 3, 2))["stem.0.weight"]
    assert adapted[0, :, 0, 0].tolist() == [3, 2, 1]
    assert torch.equal(to_channels(weights, "stem.0.weight", 13, bands=None)["stem.0.weight"], kernel)
    with pytest.raises(ValueError, match="takes images of 13 channels, expected 3"):
        to_channels(weights, "stem.0.weight", 3)

"""How pixels are read goes with a single .safetensors file, and options take its place."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

import fcmae
from fcmae.analysis.names import parse_names
from fcmae.analysis.subjects import LoadOptions, load_subject
from fcmae.config.pixels import PixelConfig
from fcmae.convert import convert
from fcmae.data import labeled
from fcmae.data.crop_batches import crop_batches
from fcmae.data.normalizer import Normalizer, Pixels
from fcmae.data.pixel_reading import PixelReading
from fcmae.errors import UserError
from fcmae.evaluate import evaluate
from fcmae.reconstruct import reconstruct
from fcmae.weights.settings import PIXELS_KEY, pixels
from tests.fcmae.small_runs import save_run

READ = {"value_range": [10.0, 400.0], "bands": [2], "nodata": 0, "stack": "channels", "mean": [0.25], "std": [0.125]}
READING = PixelReading(1, (2,), (10.0, 400.0), 0, "channels")
NORMALIZER = Normalizer((0.25,), (0.125,))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the second band of 12-bit images in which 0 is no data."""
    folder = save_run(tmp_path_factory.mktemp("runs") / "run", in_chans=1)
    (folder / "config.yaml").write_text("# fcmae\n" + yaml.safe_dump({"data": READ}))
    return folder


@pytest.mark.parametrize("format", ["timm", "transformers", "official", "mmpretrain"])
def test_it_goes_with_a_single_file_wherever_that_is_moved(run: Path, tmp_path: Path, format: str) -> None:
    convert(str(run), str(tmp_path / "a.safetensors"), format=format)
    (tmp_path / "far").mkdir()
    moved = (tmp_path / "a.safetensors").rename(tmp_path / "far" / "b.pth")  # found by its content
    assert pixels(moved, 1) == Pixels(NORMALIZER, READING)
    assert fcmae.create_dense(moved).pretrained_cfg["mean"] == (0.25,)
    convert(str(moved), str(tmp_path / "again.safetensors"))
    assert pixels(tmp_path / "again.safetensors", 1) == Pixels(NORMALIZER, READING)
    convert(str(moved), str(tmp_path / "folder"))
    assert pixels(tmp_path / "folder", 1) == Pixels(NORMALIZER, READING)
    assert "assumed" not in (tmp_path / "folder" / "README.md").read_text()


def test_official_folders_have_no_other_place(run: Path, tmp_path: Path) -> None:
    convert(str(run), str(tmp_path / "out"), format="official")
    assert pixels(tmp_path / "out", 1) == Pixels(NORMALIZER, READING)


def test_weights_that_say_nothing_write_nothing(tmp_path: Path) -> None:
    torch.save(fcmae.create_model("convnextv2_atto", decoder_dim=1).encoder.state_dict(), tmp_path / "a.pth")
    convert(str(tmp_path / "a.pth"), str(tmp_path / "a.safetensors"))
    with safe_open(tmp_path / "a.safetensors", framework="np") as opened:
        assert opened.metadata() == {"format": "pt"}


@pytest.mark.parametrize(
    "text", ["", "[", "[1]", "7", "null", '{"mean": "x"}', '{"nodata": "x", "stack": 3}', '{"bands": [1, 2, 3, 4, 5]}']
)
def test_damaged_metadata_is_no_error(tmp_path: Path, text: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", metadata={PIXELS_KEY: text})
    found = pixels(tmp_path / "a.safetensors", 3)
    assert found.reading == PixelReading(3)
    assert len(found.mean) == 3


def test_options_take_the_place_of_what_weights_say() -> None:
    said = Pixels(NORMALIZER, READING)
    assert PixelConfig().over(said) == said
    assert PixelConfig(value_range=(0.0, 1.0), nodata=-1.0).over(said).reading == PixelReading(
        1, (2,), (0.0, 1.0), -1.0, "channels"
    )
    found = PixelConfig(bands=(1,), stack="images", mean=(0.5,), std=(0.25,)).over(said)
    assert found == Pixels(Normalizer((0.5,), (0.25,)), PixelReading(1, (1,), (10.0, 400.0), 0, "images"))
    for given, what in (
        (PixelConfig(bands=(1, 2)), r"--data\.bands must name one band per channel: the network takes 1, got \[1, 2\]"),
        (PixelConfig(value_range=(0, 1, 0, 2)), r"--data\.value_range must be one pair .* the network takes 1, got 2 "),
        (PixelConfig(std=(1.0, 2.0)), r"--data\.std must have one value per channel: the network takes 1"),
    ):
        with pytest.raises(UserError, match=what):
            given.over(said)


def dim_images(folder: Path) -> Path:
    """Two classes of 16-bit images whose values lie between 100 and 164."""
    random = np.random.default_rng(0)
    for name, low in (("a", 100), ("b", 132)):
        (folder / name).mkdir(parents=True)
        for n in range(4):
            array = random.integers(low, low + 32, (32, 32), dtype=np.uint16)
            tifffile.imwrite(folder / name / f"{n}.tif", array, photometric="minisblack")
    return folder


def test_commands_read_by_their_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that say nothing, and images of which the type tells little."""
    run = save_run(tmp_path / "run", in_chans=1)
    data = dim_images(tmp_path / "data")
    (named,) = parse_names([str(run)])
    found = load_subject(named, LoadOptions(pixels=PixelConfig(value_range=(100.0, 164.0), mean=(0.5,), std=(0.25,))))
    assert (found.reading, found.normalize) == (PixelReading(1, None, (100.0, 164.0)), Normalizer((0.5,), (0.25,)))
    read_as = []

    def noted(paths: Any, image_hw: Any, reading: Any, *rest: Any) -> Any:
        read_as.append(reading)
        return crop_batches(paths, image_hw, reading, *rest)

    monkeypatch.setattr(labeled, "crop_batches", noted)
    evaluate(str(run), data={"path": str(data), "num_workers": 0, "value_range": (100, 164)}, test_share=0.5)
    assert read_as == [PixelReading(1, None, (100.0, 164.0))] * 2  # to learn from, and to test
    (plain,) = reconstruct(str(run), data=str(data), mask_ratios=(0.6,), output=str(tmp_path / "plain"))
    (ranged,) = reconstruct(
        str(run), data={"path": str(data), "value_range": (0, 10_000)}, mask_ratios=(0.6,), output=str(tmp_path / "b")
    )
    assert plain.file.read_bytes() != ranged.file.read_bytes()

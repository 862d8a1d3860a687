"""What a set's values are measured as, and that a network then starts at a loss of about 1, whatever the images are."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from skimage.data import astronaut, coffee

from fcmae.config import DataConfig, PretrainConfig, PretrainModelConfig
from fcmae.data import measure
from fcmae.data.folder import image_files
from fcmae.data.pixel_reading import PixelReading
from fcmae.data.samples import PretrainDataset, collate
from fcmae.models import FCMAE
from fcmae.training.pixels import measured_pixels, recorded_pixels

R = np.random.default_rng(0)


def smooth(height: int = 128, width: int = 128) -> np.ndarray:
    """A field of unit variance with structure of some pixels' size, and noise."""
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(R.normal(size=(height, width)), 4)
    return field / field.std()


def photographs(folder: Path) -> None:
    for n, photo in enumerate((astronaut(), coffee())):
        Image.fromarray(photo).save(folder / f"{n}.png")


def dim_microscopy(folder: Path) -> None:
    for n in range(6):
        tifffile.imwrite(folder / f"{n}.tif", (110 + 8 * smooth() + R.normal(0, 2, (128, 128))).astype(np.uint16))


def elevation(folder: Path) -> None:
    for n in range(6):
        array = (500 + 200 * smooth()).astype(np.float32)
        array[: 10 * n, :40] = -9999
        tifffile.imwrite(folder / f"{n}.tif", array, extratags=[(42113, 2, 6, "-9999", True)])


def reflectance(folder: Path) -> None:
    for n in range(6):
        bands = [np.clip(300 + 150 * b + (40 + 30 * b) * smooth(), 0, None) for b in range(13)]
        tifffile.imwrite(folder / f"{n}.tif", np.stack(bands).astype(np.uint16), photometric="minisblack")


def computed_tomography(folder: Path) -> None:
    for n in range(6):
        tissue = 40 + 60 * smooth() + R.normal(0, 15, (128, 128))
        tissue[:30] = -1000 + R.normal(0, 20, (30, 128))
        tissue[60:70, 60:70] = 1200 + R.normal(0, 50, (10, 10))
        np.save(folder / f"{n}.npy", tissue.astype(np.int16))


KINDS: dict[Callable[[Path], None], int] = {
    photographs: 3,
    dim_microscopy: 1,
    elevation: 1,
    reflectance: 13,
    computed_tomography: 1,
}


def settings(folder: Path, in_chans: int, **data: object) -> PretrainConfig:
    model = PretrainModelConfig(img_size=64, stem_stride=2, decoder_dim=64, in_chans=in_chans)
    return PretrainConfig(model=model, data=DataConfig(path=str(folder), num_workers=0, **data))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_first_loss_is_about_1(tmp_path: Path, kind: Callable[[Path], None]) -> None:
    kind(tmp_path)
    paths = image_files(tmp_path)
    config = measured_pixels(settings(tmp_path, KINDS[kind]), paths)
    assert (config.data.value_range is None) == (kind is photographs)
    assert (config.data.mean is None) == (kind is photographs)
    data = PretrainDataset(paths, config.data, config.model, 0.6, 0)
    batch = collate([data[(0, n % len(data))] for n in range(12)])
    torch.manual_seed(0)
    loss = FCMAE(config.model)(data.normalize(batch.image), batch.visible, scored=batch.scored).loss
    assert 0.9 < float(loss.detach()) < 1.1
    again = measured_pixels(settings(tmp_path, KINDS[kind]), paths)
    assert again == config


def test_a_hot_pixel_and_undeclared_nodata_do_not_stretch_the_range(caplog: pytest.LogCaptureFixture) -> None:
    values = R.normal(500, 20, (1, 50_000))
    values[0, 0] = 60000
    low, high = measure.value_range(values)
    assert 380 < low < 460
    assert 540 < high < 620
    values[0, :3000] = -9999
    with caplog.at_level(logging.WARNING):
        low, high = measure.value_range(values)
    assert 380 < low < 460
    assert "6% of its values are -9999" in caplog.text
    assert "--data.nodata -9999" in caplog.text


def test_what_is_a_little_brighter_than_most_is_not_clipped() -> None:
    values = np.concatenate([R.uniform(0, 100, 99_990), np.full(10, 110.0)])[None]
    assert measure.value_range(values)[1] == 110


def test_channels_of_one_value_and_of_none() -> None:
    values = np.stack([np.full(100, 7.0), np.full(100, np.nan)])
    assert measure.value_range(values) == (7, 8, 0, 1)
    mean, std = measure.mean_std(np.stack([np.full(100, 0.3), np.full(100, np.nan)]))
    assert std == (1.0, 1.0)
    assert mean == (pytest.approx(0.3), 0.5)


def test_mean_and_std_of_eight_bits_by_auto(tmp_path: Path) -> None:
    gray = R.integers(100, 140, (80, 80), dtype=np.uint8)
    Image.fromarray(gray).save(tmp_path / "a.png")
    config = measured_pixels(settings(tmp_path, 1, mean="auto", std="auto"), image_files(tmp_path))
    assert config.data.value_range is None
    assert config.data.mean == (pytest.approx(gray.mean() / 255, rel=0.02),)
    assert config.data.std == (pytest.approx(gray.std() / 255, rel=0.02),)


def test_faint_images_are_named_with_the_flags_that_mend_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for level in (3, 90):
        Image.fromarray(R.integers(100, 100 + level, (80, 80), dtype=np.uint8)).save(tmp_path / "a.png")
        for data in ({}, {"mean": "auto", "std": "auto"}):
            caplog.clear()
            measured_pixels(settings(tmp_path, 1, **data), image_files(tmp_path))
            assert ("--data.mean auto --data.std auto" in caplog.text) == (level == 3 and not data)


def test_images_of_mixed_depth_keep_the_range_of_their_types(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.fromarray(R.integers(0, 256, (40, 40), dtype=np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(R.integers(0, 65536, (40, 40), dtype=np.uint16)).save(tmp_path / "b.png")
    config = measured_pixels(settings(tmp_path, 1), image_files(tmp_path))
    assert config == settings(tmp_path, 1)
    assert "a.png has 8 bits" in caplog.text


def test_a_resumed_run_keeps_what_was_measured(tmp_path: Path) -> None:
    before = {"data.value_range": [0.0, 400.0], "data.mean": [0.3], "data.std": [0.1]}
    for data in ({}, {"mean": "auto", "std": "auto"}):
        config = recorded_pixels(settings(tmp_path, 1, **data), before)
        assert config.data.reading(1) == PixelReading(1, value_range=(0, 400))
        assert (config.data.mean, config.data.std) == ((0.3,), (0.1,))
    given = settings(tmp_path, 1, value_range=(0, 9))
    assert recorded_pixels(given, before).data.value_range == (0, 9)
    assert recorded_pixels(given, {}) == given

"""A folder of small images, and a configuration that trains on it in seconds."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcmae import progress
from fcmae.models import sizes
from tests.fcmae.analysis.literal import SMALL_CONVNEXT
from tests.fcmae.labeled_images import COLORS, fill_classes
from tests.fcmae.small_runs import shrink

TINY = [
    *("--model.img_size", "32", "--model.stem_stride", "1", "--model.decoder_dim", "16", "--train.batch_size", "4"),
    *("--train.epochs", "4", "--train.warmup_epochs", "1", "--train.base_lr", "0.05", "--data.num_workers", "0"),
    *("--log.every", "1", "--log.pictures_every", "0"),
]


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images of different sizes, nested."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(10):
        coarse = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((40 + 3 * i, 60 - 2 * i), Image.Resampling.BICUBIC)
        (folder / "ab"[i % 2]).mkdir(exist_ok=True)
        image.save(folder / "ab"[i % 2] / f"{i}.png")
    return folder


@pytest.fixture
def tiny_args(image_folder: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Arguments of a run of 10 steps (10 images, 4 epochs, batches of 4) into ``tmp_path / name``."""

    def args(name: str = "run", *more: str) -> list[str]:
        return [*TINY, "--data.path", str(image_folder), "--output", str(tmp_path / name), *more]

    return args


@pytest.fixture
def _small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of our own as small as those of timm's here; convolutions in float64 are slow."""
    for name, conv_mlp in (("convnextv2_atto", True), ("convnext_tiny", False)):
        monkeypatch.setitem(sizes.SIZES, name, sizes.Size(**SMALL_CONVNEXT, conv_mlp=conv_mlp))


@pytest.fixture
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """One narrow block per stage in the place of atto, for what depends on no size: runs take a third of the time."""
    shrink(monkeypatch.setitem)


@pytest.fixture(scope="session")
def colors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes that anything tells apart, ten images each, one of them nested and one damaged."""
    folder = tmp_path_factory.mktemp("colors")
    fill_classes(folder, COLORS, 10)
    (folder / "red" / "deeper").mkdir()
    (folder / "red" / "0.png").rename(folder / "red" / "deeper" / "0.png")
    (folder / "blue" / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds of the progress lines' clock, which the test moves on."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now

"""A run that tells three colors apart, or tries to, and what it says of its own images."""

from pathlib import Path

import pytest

from fcmae.finetune import finetune
from fcmae.predict import predict
from tests.fcmae.labeled_images import COLORS, fill_classes

SMALL = {"img_size": 32, "batch_size": 4, "num_workers": 0, "epochs": 1, "config": "few_labels", "layer_decay": 1}


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes, three images each."""
    folder = tmp_path_factory.mktemp("images")
    fill_classes(folder, COLORS, 3)
    return folder


@pytest.fixture(scope="session")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    finetune("scratch", output=str(folder), data=str(images), **SMALL)
    return folder


@pytest.fixture(scope="session")
def found(run: Path, images: Path) -> dict[str, str]:
    """Path below the folder → predicted label."""
    predicted = predict(run, images, num_workers=0)
    return dict(zip(predicted.paths, predicted.labels, strict=True))


def other(label: str) -> str:
    """A class that is not this one."""
    return sorted(COLORS)[(sorted(COLORS).index(label) + 1) % 3]

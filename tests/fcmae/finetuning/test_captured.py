"""A captured step of fine-tuning trains as one that is not, bit for bit, as test_graphs.py shows for pretraining."""

import logging
from pathlib import Path
from typing import Any

import pytest

from fcmae.finetune import finetune
from tests.fcmae.finished_runs import assert_same_weights, course
from tests.fcmae.training.recorded import Recording, capture_here


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[Recording]:
    return capture_here(monkeypatch.setattr)


def train(colors: Path, output: Path, **more: Any) -> None:
    """Of 25 images, in 4 steps of 8."""
    settings: dict[str, Any] = {
        "weights": "scratch", "data": str(colors), "output": str(output), "img_size": 32, "epochs": 1, "batch_size": 8,
        "num_workers": 0, "log": {"every": 1}, "config": "few_labels", "drop_path_rate": 0.3, "layer_decay": 0.8,
    }  # fmt: skip
    assert finetune(**settings | more).is_complete


@pytest.mark.parametrize(
    ("more", "graphs_made"),
    [
        ({"ema": 0.9, "clip_grad": 0.1}, 1),
        ({"batch_size": 4, "accumulation_steps": 2, "freeze": 1}, 2),
    ],
    ids=["whole", "accumulation"],
)
def test_the_same_losses_and_weights_bit_for_bit(
    colors: Path, tmp_path: Path, recordings: list[Recording], more: dict[str, Any], graphs_made: int
) -> None:
    train(colors, tmp_path / "eager", cuda_graphs=False, **more)
    assert not recordings
    train(colors, tmp_path / "graphed", **more)
    assert course(tmp_path / "graphed") == course(tmp_path / "eager")
    assert_same_weights(tmp_path / "graphed", tmp_path / "eager")
    (recording,) = recordings
    assert recording.captured >= graphs_made
    assert recording.replayed > 0


def test_recomputed_activations_of_timms_network_are_not_captured(
    colors: Path, tmp_path: Path, recordings: list[Recording], caplog: pytest.LogCaptureFixture
) -> None:
    """timm keeps the state of the random numbers for them, which cannot be read during a capture."""
    with caplog.at_level(logging.INFO):
        train(colors, tmp_path / "run", checkpoint_activations=True)
    assert not recordings
    assert "--model.checkpoint_activations: the training step is not captured as a CUDA graph" in caplog.text

"""What tests read of a run that has ended: losses, weights, gradients; and a signal that ends one."""

import itertools
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fcmae.runs import checkpoint as ckpt
from fcmae.training import loop

Args = Callable[..., list[str]]
ROOT = Path(__file__).parents[2]


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[tuple[int, float]]:
    return [(m["step"], m["loss"]) for m in metrics(run)]


def course(run: Path) -> list[dict]:
    """Every line, but for the speed."""
    clocked = ("images_per_second", "data_wait")
    return [{name: value for name, value in line.items() if name not in clocked} for line in metrics(run)]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(ckpt.resolve_checkpoint(run) / ckpt.MODEL)


SHORT = ("--train.epochs", "1", "--train.warmup_epochs", "0.5")  # 3 steps


def gradient_difference(a: Path, b: Path) -> float:
    """Relative difference of AdamW's mean gradients: linear in the gradients, while losses hardly move in 3 steps."""

    def mean_gradient(run: Path) -> torch.Tensor:
        state = torch.load(ckpt.resolve_checkpoint(run) / ckpt.OPTIMIZER, weights_only=True)["state"]
        return torch.cat([state[i]["exp_avg"].flatten() for i in sorted(state)])

    left, right = mean_gradient(a), mean_gradient(b)
    assert right.norm() > 0
    return float((left - right).norm() / right.norm())


def assert_same_weights(a: Path, b: Path) -> None:
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[k], right[k]) for k in left)


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """SIGTERM comes to this process during this many'th step."""
    done = itertools.count(1)
    train_step = loop._train_step

    def step_with_signal(*args: Any) -> torch.Tensor:
        if next(done) == steps:
            signal.raise_signal(signal.SIGTERM)
        return train_step(*args)

    monkeypatch.setattr(loop, "_train_step", step_with_signal)

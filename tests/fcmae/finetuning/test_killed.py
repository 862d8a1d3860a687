"""A process of fine-tuning that is killed around a validation: the run goes on as if nothing had happened."""

import functools
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from fcmae.finetuning import best, task
from fcmae.finetuning.ranking import Rank
from fcmae.finetuning.task import Finetuning
from fcmae.runs.metrics import MetricsLog
from tests.fcmae import forked
from tests.fcmae.finished_runs import metrics

STATUS = 9
SETTINGS: dict[str, Any] = {
    "model": {"img_size": 32, "drop_path_rate": 0.2},
    "augment": {"mixup": 0.8, "cutmix": 1.0, "random_erasing": 0.5},
    "train": {"epochs": 2, "batch_size": 8, "ema": 0.9, "freeze": 2, "layer_decay": 0.8, "layer_decay_by": "three"},
    "log": {"every": 1},
}
"""7 steps over 25 images, validated after the fourth and the last."""


def equally_good(score: float, loss: float) -> Rank:
    """In the place of :func:`fcmae.finetuning.best.rank`: the first validation stays the best."""
    return 0.0, 0.0


def prepare(first_is_best: bool, step: int | None, where: str) -> None:
    """Will end this process, without a word, at the start of a validation or before its line in the metrics."""
    if first_is_best:
        task.rank = best.rank = equally_good
    validate, write = Finetuning.validate, MetricsLog.write

    def ending_validate(self: Finetuning, run: Any, at: int, log: MetricsLog | None) -> None:
        if at == step:
            os._exit(STATUS)
        validate(self, run, at, log)

    def ending_write(self: MetricsLog, values: dict[str, Any], group: str = "train") -> None:
        if group == "validation" and values["step"] == step:
            os._exit(STATUS)
        write(self, values, group)

    if where == "validation":
        Finetuning.validate = ending_validate  # type: ignore[method-assign]
    else:
        MetricsLog.write = ending_write  # type: ignore[method-assign]


def outcome(run: Path) -> dict[str, Any]:
    """All that matters of a run: weights, averages, the best, scores and metrics."""
    apart = ("images_per_second", "data_wait", "unreadable_images")
    checkpoints = run / "checkpoints"
    last = checkpoints / (checkpoints / "last").read_text().strip()
    weights = [last / "model.safetensors", last / "average.safetensors", checkpoints / "best" / "model.safetensors"]
    found: dict[str, Any] = {
        f"{place} {name}": tensor for place, file in enumerate(weights) for name, tensor in load_file(file).items()
    }
    found["best step"] = json.loads((checkpoints / "best" / "state.json").read_text())["step"]
    found["scores"] = json.loads((run / "validation" / "scores.json").read_text())
    found["metrics"] = [{key: value for key, value in line.items() if key not in apart} for line in metrics(run)]
    return found


@pytest.mark.skipif(not hasattr(os, "fork"), reason="it forks the processes that it ends")
@pytest.mark.parametrize("first_is_best", [False, True])
def test_a_run_that_is_killed_around_a_validation_goes_on(colors: Path, tmp_path: Path, first_is_best: bool) -> None:
    """Before the validation, whose checkpoint is there, and when the best weights are there but not its line."""
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(SETTINGS | {"data": {"path": str(colors), "num_workers": 0}}))

    def run(name: str, step: int | None = None, where: str = "line", status: int = 0) -> Path:
        arguments = ["scratch", "--config", "few_labels", "--config", str(file), "--output", str(tmp_path / name)]
        before = functools.partial(prepare, first_is_best, step, where)
        process = forked.start("fcmae.finetune", arguments, tmp_path / "log", is_small=False, prepare=before)
        process.join(300)
        assert process.exitcode == status, (tmp_path / "log").read_text()[-3000:]
        return tmp_path / name

    expected = outcome(run("whole"))
    assert expected["best step"] == 4 or not first_is_best
    for step, where in ((4, "line"), (7, "validation")) if first_is_best else ((4, "validation"), (7, "line")):
        name = f"{where}-{step}"
        killed = metrics(run(name, step, where, STATUS))
        assert [line["step"] for line in killed if "val_loss" in line] == [4][: step == 7]
        found = outcome(run(name))
        assert found.keys() == expected.keys()
        apart = {key for key, value in expected.items() if not same(value, found[key])}
        assert not apart


def same(left: Any, right: Any) -> bool:
    """Bit for bit."""
    return bool(torch.equal(left, right)) if isinstance(left, torch.Tensor) else bool(left == right)

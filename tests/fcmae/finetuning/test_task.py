"""Validation by several processes, one of which may have no image that can be read."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fcmae.finetuning import task
from fcmae.finetuning.scores import Predictions
from fcmae.finetuning.task import Finetuning
from fcmae.training.saving import NonFiniteError


def test_a_process_without_readable_images_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = torch.randn(2, 3), torch.tensor([1, 2])
    monkeypatch.setattr(task, "outputs", lambda *_: iter(()))
    network = torch.nn.Linear(1, 1)
    accelerator: Any = SimpleNamespace(
        process_index=0, num_processes=2, autocast=torch.inference_mode, device="cpu", is_main_process=True
    )
    run: Any = SimpleNamespace(
        accelerator=accelerator, bare_model=network, batch=SimpleNamespace(size=1),
        config=SimpleNamespace(data=SimpleNamespace(num_workers=0)), folder=Path("nowhere"),
    )  # fmt: skip
    data: Any = SimpleNamespace(val=SimpleNamespace(labels=np.array([2, 0, 1, 1])), is_multi_label=False)
    one = Finetuning(data, *[None] * 2, crops=range(4), described=None, ema=None)  # type: ignore[arg-type]
    theirs = [Predictions.of(torch.tensor([2, 0]), logits, labels)]
    monkeypatch.setattr(task, "gather_object", lambda mine: [*mine, theirs])
    found = one._predictions(run, network, 1)
    assert found is not None
    assert (found.places.tolist(), found.labels.tolist()) == ([0, 2], [2, 1])
    assert torch.equal(found.predicted, logits.argmax(1))
    monkeypatch.setattr(task, "gather_object", lambda mine: [*mine, []])
    assert one._predictions(run, network, 1) is None
    for wrong in (float("nan"), float("inf")):  # every process ends, with the line of a loss that is not finite
        bad = Predictions.of(torch.tensor([1]), torch.tensor([[0.0, wrong, 0.0]]), torch.tensor([0]))
        monkeypatch.setattr(task, "gather_object", lambda mine, bad=bad: [*mine, [*theirs, bad]])
        with pytest.raises(NonFiniteError, match=r"outputs are not finite at the validation after step 7; stopped"):
            one._predictions(run, network, 7)
    readable = (torch.tensor([3]), torch.tensor([[0.0, 1.0, 0.0]]))
    monkeypatch.setattr(task, "outputs", lambda *_: iter([readable]))
    monkeypatch.setattr(task, "gather_object", lambda mine: [*mine, theirs])
    both = one._predictions(run, network, 1)
    assert both is not None
    assert (both.places.tolist(), both.labels.tolist()) == ([0, 2, 3], [2, 1, 1])

"""Validation by several processes, one of which may have no image that can be read."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fcmae.finetuning import task
from fcmae.finetuning.task import Finetuning
from fcmae.training.saving import NonFiniteError


def test_a_process_without_readable_images_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(2, 3)
    nothing = torch.tensor([], dtype=torch.int64), torch.empty(0, 0)
    monkeypatch.setattr(task, "predict", lambda *_: nothing)
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
    monkeypatch.setattr(task, "gather_object", lambda _: [nothing, (torch.tensor([2, 0]), logits)])
    found = one._predictions(run, network, 1)
    assert found is not None
    assert (found.places.tolist(), found.labels.tolist()) == ([2, 0], [1, 2])
    assert torch.equal(found.logits, logits)
    monkeypatch.setattr(task, "gather_object", lambda _: [nothing, nothing])
    assert one._predictions(run, network, 1) is None
    for wrong in (float("nan"), float("inf")):  # every process ends, with the line of a loss that is not finite
        bad = torch.tensor([[0.0, wrong, 0.0]])
        monkeypatch.setattr(task, "gather_object", lambda _, bad=bad: [(torch.tensor([2, 0]), logits), ([1], bad)])
        with pytest.raises(NonFiniteError, match=r"outputs are not finite at the validation after step 7; stopped"):
            one._predictions(run, network, 7)

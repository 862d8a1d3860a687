"""Micro-batches on the device, on a CPU: the batches themselves, one at a time."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fcmae.training.prefetch import Prefetch


def test_batches_come_in_order_and_when_they_are_asked_for() -> None:
    loaded: list[int] = []

    def batches() -> Iterator[dict[str, Any]]:
        for number in range(3):
            loaded.append(number)
            yield {"image": torch.tensor([number]), "name": "a"}

    def inputs_of(batch: dict[str, Any]) -> tuple[Tensor | None, ...]:
        return batch["image"], None

    prefetch = Prefetch(batches(), inputs_of, torch.device("cpu"))
    assert loaded == []
    for number, (image, nothing) in enumerate(prefetch):
        assert loaded == list(range(number + 1))
        assert image is not None
        assert image.tolist() == [number]
        assert nothing is None

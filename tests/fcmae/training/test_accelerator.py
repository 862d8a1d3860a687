"""What a run says of the machine it ran on."""

import pytest
import torch
from accelerate import Accelerator

from fcmae.training.accelerator import hardware_name


@pytest.mark.parametrize(("threads", "written"), [(1, "1 thread"), (2, "2 threads")])
def test_the_threads_of_a_cpu_are_counted_in_english(
    monkeypatch: pytest.MonkeyPatch, threads: int, written: str
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    name, _, counted = hardware_name(Accelerator(cpu=True)).rpartition(", ")
    assert counted == written
    assert name

"""How long training waits for data: on a CPU the time of the call, on a GPU the time in which it has nothing to do."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fcmae.config import DataConfig
from fcmae.training import waiting
from fcmae.training.prefetch import Prefetch
from fcmae.training.waiting import DataWait, SlowData, advice


def test_the_time_of_the_calls_since_the_last_question(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [5.0]
    monkeypatch.setattr(waiting.time, "perf_counter", lambda: now[0])

    def batches() -> Any:
        for seconds in (1.0, 2.0, 4.0):
            now[0] += seconds
            yield torch.zeros(1)

    inputs = Prefetch(batches(), lambda batch: (batch,), torch.device("cpu"))
    for _ in range(2):
        next(inputs)
        now[0] += 100  # computing
    assert inputs.wait.take() == 3.0
    assert inputs.wait.take() == 0.0
    next(inputs)
    with pytest.raises(StopIteration):
        next(inputs)
    assert inputs.wait.take() == 4.0


def test_a_gpu_that_still_computes_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events are reached when all that was launched before them is done: the first wait costs 3 s of 10."""
    now, busy_until = [0.0], [0.0]

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, _stream: object) -> None:
            self.reached = max(now[0], busy_until[0])

        def elapsed_time(self, other: "Event") -> float:
            return 1e3 * (other.reached - self.reached)

        def synchronize(self) -> None:
            now[0] = max(now[0], self.reached)

    cuda = SimpleNamespace(Event=Event, current_stream=lambda _device: None)
    monkeypatch.setattr(waiting.torch, "cuda", cuda)
    wait = DataWait(torch.device("cuda"))
    busy_until[0] = 7.0
    with wait.measured():
        now[0] = 10.0
    busy_until[0] = 30.0
    with wait.measured():
        now[0] = 20.0
    assert wait.take() == pytest.approx(3.0)
    assert now[0] == 30.0
    assert wait.take() == 0.0


def test_noticed_once_after_the_first_window_and_enough_time() -> None:
    slow = SlowData()
    assert slow.share(100.0, 100.0) is None  # processes start
    assert slow.share(1.0, 4.0) is None  # too short to tell
    assert slow.share(2.0, 8.0) == pytest.approx(0.25)
    assert slow.share(20.0, 20.0) is None  # said already


def test_a_tenth_is_not_too_long() -> None:
    slow = SlowData()
    assert slow.share(0.0, 1.0) is None
    assert slow.share(1.0, 10.0) is None
    assert slow.share(1.1, 10.0) == pytest.approx(0.11)


def test_advice_names_what_is_left_to_do() -> None:
    assert advice(0.35, DataConfig(num_workers=4), 16) == (
        "training waits for data 35% of the time; what may help: --data.num_workers 16 (now 4), in a new run "
        "--data.crops_per_image 4 or --data.cache true (if the decoded images fit in memory), smaller image files"
    )
    done = DataConfig(num_workers=16, crops_per_image=2, cache=True)
    assert advice(0.2, done, 16).endswith("what may help: smaller image files")

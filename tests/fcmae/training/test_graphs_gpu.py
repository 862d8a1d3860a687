"""CUDA graphs on a GPU: a replayed step trains as one whose kernels are launched one by one, bit for bit."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fcmae.pretrain import main
from fcmae.training import loop
from fcmae.training.graphs import CudaCapture
from fcmae.training.prefetch import AHEAD, Prefetch
from tests.fcmae.finished_runs import assert_same_weights, course, losses, stop_after

Args = Callable[..., list[str]]
# Why a skip: CI has no GPU. What a step may do, and that repeating it is exact, test_graphs.py and test_capturable.py
# show on a CPU; what CUDA itself makes of it, only a GPU can.
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU of CUDA")


@pytest.mark.parametrize(
    "options",
    [
        "--monitor.every 2 --monitor.images 4",
        "--train.clip_grad 0.1 --model.drop_path_rate 0.3 --model.checkpoint_stages 0,2",
        "--train.batch_size 2 --train.accumulation_steps 2 --train.clip_grad 0.1 --model.drop_path_rate 0.3",
        "--train.precision fp32 --data.num_workers 2",
        "--train.compile true",
    ],
)
def test_the_same_losses_and_weights_bit_for_bit(
    tiny_args: Args, tmp_path: Path, caplog: pytest.LogCaptureFixture, options: str
) -> None:
    more = options.split()
    assert main(tiny_args("eager", *more, "--train.cuda_graphs", "false")) == 0
    assert main(tiny_args("graphed", *more)) == 0
    assert "cannot be captured" not in caplog.text
    assert course(tmp_path / "graphed") == course(tmp_path / "eager")
    assert_same_weights(tmp_path / "graphed", tmp_path / "eager")


def test_a_run_that_was_stopped_goes_on(tiny_args: Args, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = ["--model.drop_path_rate", "0.3"]
    assert main(tiny_args("whole", *more)) == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        assert main(tiny_args("stopped", *more)) == 0
    assert main(tiny_args("stopped", *more)) == 0
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    assert_same_weights(tmp_path / "stopped", tmp_path / "whole")


def test_after_a_capture_that_failed() -> None:
    """Random numbers go on where they would have without it, memory is released, and another capture works."""
    device = torch.device("cuda")
    x = torch.zeros(8, device=device)
    capture = CudaCapture(device)
    capture.warm_up(lambda: x.bernoulli_(0.5))
    torch.manual_seed(3)
    expected = [torch.rand(4, device=device), torch.rand(4, device=device)]
    torch.manual_seed(3)
    first = torch.rand(4, device=device)

    def work() -> None:
        x.bernoulli_(0.5)
        x.sum().item()

    stream = torch.cuda.current_stream()
    with pytest.raises(Exception, match=r"captur|not permitted"):
        capture(work)
    assert torch.cuda.current_stream() == stream
    assert torch.equal(first, expected[0])
    assert torch.equal(torch.rand(4, device=device), expected[1])
    torch.cuda.empty_cache()
    launch = capture(lambda: x.fill_(7.0))
    launch()
    assert x.tolist() == [7.0] * 8


def test_prefetched_batches_are_whole_though_the_gpu_is_far_behind() -> None:
    """Their memory is not given to another batch while work that reads them waits."""

    def batches() -> Iterator[Tensor]:
        for number in range(10):
            yield torch.full((1 << 20,), float(number)).pin_memory()

    def inputs_of(batch: Any) -> tuple[Tensor | None, ...]:
        return batch, None

    sums = []
    prefetch = Prefetch(batches(), inputs_of, torch.device("cuda"))
    for images, nothing in prefetch:
        assert images is not None
        assert nothing is None
        torch.cuda._sleep(20_000_000)
        sums.append(images.mean())
        assert len(prefetch._in_use) <= AHEAD
    assert torch.stack(sums).tolist() == list(range(10))


def test_no_step_waits_for_the_gpu(tiny_args: Args, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the first two, which prepare and capture: not between two lines of the log."""
    steps, real = itertools.count(1), loop._train_step

    def watched(*args: Any) -> Tensor:
        torch.cuda.set_sync_debug_mode("error" if next(steps) > 2 else "default")
        try:
            return real(*args)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(loop, "_train_step", watched)
    assert main(tiny_args("run", "--log.every", "10", "--train.clip_grad", "0.1")) == 0

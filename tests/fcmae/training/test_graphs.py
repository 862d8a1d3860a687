"""A captured step trains as one that is not, bit for bit. Here a recording on the CPU stands in for CUDA graphs."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fcmae.pretrain import main
from fcmae.runs import checkpoint as ckpt
from fcmae.training.graphs import GraphedStep
from fcmae.training.pretraining import Pretraining
from tests.fcmae.finished_runs import assert_same_weights, course, losses, stop_after
from tests.fcmae.forked import train_together
from tests.fcmae.training.recorded import Recording, capture_here

Args = Callable[..., list[str]]
PLAIN = ("--model.backend", "torch")


pytestmark = pytest.mark.usefixtures("small_network")  # a CPU emulates bfloat16


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[Recording]:
    """Steps are captured, on this CPU, by these."""
    return capture_here(monkeypatch.setattr)


@pytest.mark.parametrize(
    ("options", "graphs_made"),
    [
        ("--monitor.every 2 --monitor.images 4", 1),
        ("--train.clip_grad 0.1 --model.drop_path_rate 0.3 --model.checkpoint_stages 0,2 --train.precision bf16", 1),
        ("--train.batch_size 2 --train.accumulation_steps 2 --train.clip_grad 0.1 --model.drop_path_rate 0.3", 2),
        ("--model.backend masked --model.checkpoint_stages 1 --model.drop_path_rate 0.3", 1),
    ],
    ids=["monitored", "everything", "accumulation", "masked"],
)
def test_the_same_losses_and_weights_bit_for_bit(
    tiny_args: Args, tmp_path: Path, recordings: list[Recording], options: str, graphs_made: int
) -> None:
    """Also with measurements and checkpoints in between."""
    more = [*PLAIN, *options.split(), "--train.epochs", "2"]
    assert main(tiny_args("eager", *more, "--train.cuda_graphs", "false")) == 0
    assert not recordings
    assert main(tiny_args("graphed", *more)) == 0
    assert course(tmp_path / "graphed") == course(tmp_path / "eager")
    assert_same_weights(tmp_path / "graphed", tmp_path / "eager")
    (recording,) = recordings
    micro_batches, updates = (10, 5) if "accumulation" in options else (5, 0)
    assert recording.captured == recording.warmed == graphs_made
    assert recording.replayed + recording.warmed == micro_batches + updates


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
    tiny_args: Args, tmp_path: Path, recordings: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint holds plain numbers, so that either kind of step resumes the other's."""
    more = [*PLAIN, "--model.drop_path_rate", "0.3"]
    assert main(tiny_args("eager", *more, "--train.cuda_graphs", "false")) == 0
    for name, graphed in (("a", ["true", "false"]), ("b", ["false", "true"])):
        with monkeypatch.context() as patch:
            stop_after(patch, 4)
            assert main(tiny_args(name, *more, "--train.cuda_graphs", graphed[0])) == 0
        state = torch.load(ckpt.resolve_checkpoint(tmp_path / name) / ckpt.OPTIMIZER, weights_only=True)
        assert all(type(group["lr"]) is float for group in state["param_groups"])
        assert main(tiny_args(name, *more, "--train.cuda_graphs", graphed[1])) == 0
        assert losses(tmp_path / name) == losses(tmp_path / "eager")
        assert_same_weights(tmp_path / name, tmp_path / "eager")
    assert [recording.replayed for recording in recordings] == [3, 5]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_what_cannot_be_captured_runs_without_and_is_said_once(
    tiny_args: Args, tmp_path: Path, recordings: list[Recording], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, accumulation: int,
) -> None:  # fmt: skip
    """A loss that reads a value back: nothing is trained twice, and nothing is left out."""
    more = [*PLAIN, "--train.batch_size", str(4 // accumulation), "--train.accumulation_steps", str(accumulation)]
    assert main(tiny_args("eager", *more, "--train.cuda_graphs", "false")) == 0
    real = Pretraining.loss

    def reading(self: Pretraining, model: nn.Module, inputs: Any) -> Tensor:
        loss = real(self, model, inputs)
        loss.item()
        return loss

    monkeypatch.setattr(Pretraining, "loss", reading)
    with caplog.at_level(logging.WARNING):
        assert main(tiny_args("graphed", *more)) == 0
    said = [message for message in caplog.messages if "cannot be captured as a CUDA graph" in message]
    assert len(said) == 1
    assert said[0].endswith("RuntimeError: operation not permitted while recording: aten._local_scalar_dense.default")
    assert recordings[0].replayed == 0
    assert losses(tmp_path / "graphed") == losses(tmp_path / "eager")
    assert_same_weights(tmp_path / "graphed", tmp_path / "eager")


def test_two_processes(tiny_args: Args, tmp_path: Path) -> None:
    """They exchange gradients between two graphs, and say so nowhere: the same as with DDP, which adds the same two."""
    more = [*PLAIN, "--train.batch_size", "2", "--train.epochs", "2", "--train.clip_grad", "0.1"]
    for name, is_captured in (("graphed", True), ("eager", False)):
        arguments = tiny_args(name, *more, "--train.cuda_graphs", str(is_captured).lower())
        said = train_together("tests.fcmae.training.recorded", arguments, tmp_path / f"{name}.log")
        assert said.count(f"replayed {[8] if is_captured else []} times") == 2
    assert losses(tmp_path / "graphed") == losses(tmp_path / "eager")
    assert_same_weights(tmp_path / "graphed", tmp_path / "eager")


class Small:
    """A run of a linear layer, as far as a step reads it."""

    def __init__(self, accumulation: int = 1) -> None:
        torch.manual_seed(0)
        from types import SimpleNamespace

        from accelerate import Accelerator

        self.bare_model = self.model = nn.Linear(3, 1)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1, fused=True)
        self.accelerator = Accelerator(cpu=True)
        self.batch = SimpleNamespace(accumulation_steps=accumulation)
        self.config = SimpleNamespace(train=SimpleNamespace(clip_grad=None))
        self.task = self

    @staticmethod
    def loss(model: nn.Module, inputs: tuple[Tensor | None, ...]) -> Tensor:
        x, weight = inputs
        squares = model(x).square()
        return squares.mean() if weight is None else (squares * weight).mean()


def batches(count: int) -> Iterator[tuple[Tensor | None, ...]]:
    """With and without weights, in no order."""
    draw = torch.Generator().manual_seed(1)
    for _ in range(count):
        x, weight = torch.randn(4, 3, generator=draw), torch.rand(4, 1, generator=draw)
        yield x, weight if float(weight[0]) > 0.5 else None


@pytest.mark.parametrize("accumulation", [1, 3])
def test_inputs_of_several_kinds(accumulation: int) -> None:
    """A graph for each: a batch without missing pixels has no ``scored``."""

    def trained(capture: Recording | None) -> tuple[list[float], Tensor]:
        run: Any = Small(accumulation)
        step = GraphedStep(run, capture)
        some = batches(12 * accumulation)
        found = []
        for number in range(12):
            run.optimizer.param_groups[0]["lr"] = 0.1 / (1 + number)
            found.append(step(some, lambda: None))
        return torch.stack(found).tolist(), run.model.weight.detach()

    recording = Recording()
    (graphed, weight), (eager, expected) = trained(recording), trained(None)
    assert graphed == eager
    assert torch.equal(weight, expected)
    assert recording.captured == (2 if accumulation == 1 else 3)


def test_graphs_are_dropped_before_a_step_with_other_inputs() -> None:
    """That step needs as much memory as they hold. Afterwards those of both kinds stay."""
    recording, run = Recording(), Small()
    step = GraphedStep(run, recording)  # type: ignore[arg-type]
    replayed = []
    for has_weight in (False, False, False, True, False, True, False, True):
        step(iter([(torch.ones(4, 3), torch.ones(4, 1) if has_weight else None)]), lambda: None)
        replayed.append((recording.dropped, recording.captured, recording.replayed))
    assert replayed == [(0, 0, 0), (0, 1, 1), (0, 1, 2), (1, 1, 2), (1, 2, 3), (1, 3, 4), (1, 3, 5), (1, 3, 6)]


def test_the_stand_in_shows_what_a_graph_would_get_wrong() -> None:
    """Numbers of Python stay those of the recording, and so does memory that the recording allocated."""
    x, seen = torch.zeros(()), torch.zeros(())
    number = 1.0
    left = torch.zeros(())

    def work() -> None:
        nonlocal left
        seen.copy_(x + number)
        left = x * 2

    replay = Recording()(work)
    assert float(seen) == 0  # nothing was done
    number = 5.0
    x.fill_(3.0)
    replay()
    assert float(seen) == 4
    assert left.isnan()
    with pytest.raises(RuntimeError, match="not permitted while recording"):
        Recording()(lambda: seen.fill_(float(x)))

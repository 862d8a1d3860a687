"""What a run shows: steps and micro-batches, the time until it has stopped, and its last lines."""

import itertools
import logging
import shlex
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fcmae.config import PretrainConfig, PretrainModelConfig, TrainConfig
from fcmae.training import console
from fcmae.training.batch import Batch
from fcmae.training.closing import closing_lines
from fcmae.training.console import TrainingProgress, signals_as_question
from fcmae.training.monitor import in_words

VALUES = {"epoch": 1.5, "loss": 0.75, "lr": 1e-4, "images_per_second": 12.0}


def test_it_moves_with_every_micro_batch(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    """Steps of 4 micro-batches of 10 seconds, resumed at step 2 of 5: lines come inside a step too."""
    caplog.set_level(logging.INFO)
    with TrainingProgress(total_steps=5, step=2, micro_batches=4, shown=True) as progress:
        for micro_batch in range(12):
            clock[0] += 10
            progress.update()
            if micro_batch == 3:
                progress.show(VALUES)
    assert caplog.messages[0] == "step 2 of 5, micro-batch 1 of 4"
    assert caplog.messages[1] == "step 3 of 5, 80 s left"
    assert caplog.messages[2].startswith("step 3 of 5, micro-batch 3 of 4, epoch 1.50, loss 0.7500, lr 1.00e-04, 12.0 ")
    assert caplog.messages[2].endswith("images/s, 50 s left")


def test_it_shows_how_long_a_step_waits_for_data() -> None:
    with TrainingProgress(total_steps=5, step=2, micro_batches=4, shown=False) as progress:
        progress.show(VALUES | {"data_wait": 0.004})
        assert progress.details().endswith("images/s")
        progress.show(VALUES | {"data_wait": 0.256})
        assert progress.details().endswith("12.0 images/s, 26% waiting for data")


def test_ctrl_c_says_how_long_it_takes(
    clock: list[float], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of the step; with several processes too, because where steps are long they ask each other after each."""
    monkeypatch.setattr(console.dist, "new_group", lambda **_: None)
    for processes, words in ((1, "(about 20 s)"), (2, "(about 20 s)")):
        accelerator: Any = SimpleNamespace(num_processes=processes)
        progress = TrainingProgress(total_steps=50, step=0, micro_batches=4, shown=False)
        with signals_as_question(accelerator, progress):
            for _ in range(6):  # a step and a half
                clock[0] += 10
                progress.update()
            signal.raise_signal(signal.SIGTERM)
        assert caplog.messages[-1] == (
            f"SIGTERM: finishing this step {words}, then saving; Ctrl-C again stops at once and loses what is not saved"
        )


def test_ctrl_c_counts_the_time_of_the_save(clock: list[float]) -> None:
    """As the last checkpoint took; before the first one, its size is said instead."""
    progress = TrainingProgress(total_steps=50, step=0, micro_batches=1, shown=False, checkpoint_bytes=45_000_000)
    assert progress.until_stopped() == "finishing this step, then saving 45 MB"
    for _ in range(3):
        clock[0] += 10
        progress.update()
    assert progress.until_stopped() == "finishing this step (about 10 s), then saving 45 MB"
    with progress.saving():
        clock[0] += 25
    progress.update()
    seconds = progress.seconds_to_stop()
    assert seconds is not None
    assert progress.until_stopped() == f"finishing this step and saving (about {round(seconds + 25)} s)"


def run(folder: Path, base_lr: float | None = None, step: int = 1200, **model: Any) -> Any:
    config = PretrainConfig(model=PretrainModelConfig(**model), train=TrainConfig(epochs=30, base_lr=base_lr or 1.5e-4))
    start = SimpleNamespace(step=step)
    return SimpleNamespace(config=config, folder=folder, total_steps=1200, batch=Batch(64, 4, 1), start=start)


def test_the_last_lines_name_the_next_commands() -> None:
    lines = closing_lines(run(Path("my runs/a")), 0.6)
    assert lines[0] == "done: 1,200 steps, loss 0.6000. Pictures and weights are in my runs/a"
    shown = [line for line in lines if line.startswith("  ")]
    commands = [shlex.split(line) for line in shown]
    assert [command[command.index("my runs/a") :] for command in commands] == [
        ["my runs/a", "--data.path", "LABELED", "--output", "my runs/a-finetuned"],
        ["my runs/a", "--output", "my runs/a/evaluation"],
        ["my runs/a"],
        ["my runs/a", "my runs/a/timm", "--format", "timm"],
    ]
    for name, line in zip(("finetune", "evaluate", "report", "convert"), shown, strict=True):
        assert f" {name} " in line or f"fcmae.{name} " in line


def test_a_finished_run_says_so_and_how_to_go_on() -> None:
    lines = closing_lines(run(Path("runs/a")), None)
    assert lines[0].startswith("runs/a is finished: 1,200 steps (30 epochs) done, nothing is left to train.")
    assert lines[1].endswith("--config runs/a/config.yaml --train.epochs 60")
    longer = closing_lines(run(Path("runs/a"), step=1999), None)  # of 50 epochs, started again with 30
    assert "1,200 steps (30 epochs) done (it was trained for 1,999), nothing is left to train." in longer[0]
    assert longer[1].endswith(" --train.epochs 100")


@pytest.mark.parametrize(
    ("base_lr", "words"),
    [
        (1.5e-4, "the peak learning rate was 0.00015; try a higher"),
        (0.5, "was 0.5, which may be too high; try a lower"),
    ],
)
def test_a_poor_loss_gets_a_word_with_the_learning_rate(base_lr: float, words: str) -> None:
    assert words in closing_lines(run(Path("a"), base_lr), 1.02)[1]
    assert words not in str(closing_lines(run(Path("a"), base_lr), 0.99))
    assert words not in str(
        closing_lines(run(Path("a"), base_lr, norm_pix_loss=False), 1.02)
    )  # not a share of variance


def test_measurements_in_words() -> None:
    measured = {f"cosine_distance_stage_{n}": 0.4 - 0.1 * n for n in range(4)}
    sentence = "the channels' mean cosine distance by stage is 0.400, 0.300, 0.200, 0.100 (near 0: collapsed)"
    assert in_words(measured) == sentence
    assert in_words(measured | {"knn_top1": 0.4312}) == f"{sentence}; the kNN accuracy is 43.1%"


@pytest.mark.parametrize(("seconds", "between"), [(0.01, 8), (0.3, 3), (20.0, 1)])
def test_processes_ask_each_other_often_enough(monkeypatch: pytest.MonkeyPatch, seconds: float, between: int) -> None:
    """Two processes whose clocks differ ask after the same steps: about every second, and at least every 8 steps."""
    clocks, sent, meeting = threading.local(), {}, threading.Barrier(2)
    monkeypatch.setattr(console.time, "monotonic", lambda: clocks.now)

    def answers(rank: int) -> tuple[list[int], int]:
        def sums(mine: list[int]) -> list[int]:
            sent[rank] = mine
            meeting.wait(10)
            total = [sum(both) for both in zip(sent[0], sent[1], strict=True)]
            meeting.wait(10)
            asked.append(step)
            return total

        fake: Any = SimpleNamespace(is_main_process=rank == 0, num_processes=1)
        exchange, asked, stops = console._Exchange(fake), list[int](), list[int]()
        exchange._sums = sums  # type: ignore[method-assign]
        clocks.now = 100.0
        for step in range(1, 40):
            clocks.now += seconds * (1 + rank)
            if exchange.is_asked(rank == 1 and step >= 20):
                stops.append(step)
        return asked, stops[0]

    with ThreadPoolExecutor(2) as pool:
        (asked, stop), other = pool.map(answers, (0, 1))
    assert (asked, stop) == other
    assert asked[0] == 1
    assert {after - before for before, after in itertools.pairwise(asked[1:])} == {between}
    assert 20 <= stop < 20 + between

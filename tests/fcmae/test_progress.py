"""Progress: a bar with the time left on a terminal, lines with the time left in a log, nothing for short work."""

import io
import logging
import sys

import pytest

from fcmae.progress import Progress, duration, tracked


def test_lines_come_now_and_then_with_the_time_left(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    """100 units of 2 seconds each: the first line after 10 s, then one every 30 s, none at the end."""
    caplog.set_level(logging.INFO)
    with Progress("images", 100) as progress:
        for _ in range(100):
            clock[0] += 2
            progress.update()
    assert caplog.messages[0] == "images: 5 of 100, 3 min left"
    assert caplog.messages[1] == "images: 20 of 100, 3 min left"
    assert caplog.messages[-1].startswith("images: 95 of 100, 10 s left")
    assert len(caplog.messages) == 7


def test_short_work_and_other_processes_say_nothing(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert list(tracked(range(8), 8, "images")) == list(range(8))
    with Progress("steps", 100, shown=False) as progress:
        clock[0] += 1000
        progress.update()
    assert not caplog.messages


def test_the_first_unit_does_not_count_for_the_speed(clock: list[float]) -> None:
    """It starts processes and compiles; units done before a resume do not count either."""
    progress = Progress("steps", 100, done=50)
    assert progress.seconds_left() is None
    clock[0] += 60
    progress.update()
    assert progress.seconds_left() is None
    clock[0] += 3
    progress.update()
    assert progress.seconds_left() == pytest.approx(48 * 3)
    assert progress.seconds_left(4) == pytest.approx(4 * 3)


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("images", 3) as progress:
        for _ in range(3):
            progress.update()
    assert "images: 0 of 3   0%|" in terminal.getvalue()
    assert " left]" in terminal.getvalue()


def test_items_may_be_several_units(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for _ in tracked([[1, 2], [3, 4], [5]], 5, "images", len):
        clock[0] += 11
    assert caplog.messages == ["images: 2 of 5"]  # the next is due after 30 s


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (7500, "2 h 05 min"), (300_000, "3 d 11 h")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words

"""The progress bar of a run, and signals turned into a flag that is checked between steps."""

import contextlib
import itertools
import logging
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

from accelerate import Accelerator
from tqdm import tqdm

from fcmae.data.workers import ENDING_SIGNALS

logger = logging.getLogger(__name__)

STEPS_BETWEEN_QUESTIONS = 8


@contextlib.contextmanager
def signals_as_question(accelerator: Accelerator) -> Iterator[Callable[[], bool]]:
    """While open, Ctrl-C, SIGTERM and SIGHUP only set a flag. The function returns whether any process received one.

    All processes must call it once per step. Several processes exchange their flags only every few steps, because a GPU
    has to wait for the exchange. A second Ctrl-C interrupts at once.
    """
    received: list[int] = []
    calls = itertools.count(1)

    def is_asked_to_stop() -> bool:
        if accelerator.num_processes == 1:
            return bool(received)
        return next(calls) % STEPS_BETWEEN_QUESTIONS == 0 and accelerator.check_trigger()

    def note(number: int, _frame: object) -> None:
        received.append(number)
        accelerator.set_trigger()
        logger.warning("%s: finishing this step, then saving", signal.Signals(number).name)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before: dict[int, Any] = {}
    with contextlib.suppress(ValueError):  # outside the main thread, signals belong to the calling program
        before = {number: signal.signal(number, note) for number in ENDING_SIGNALS}
    try:
        yield is_asked_to_stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class ProgressBar(tqdm):
    """Steps, loss, learning rate, images per second and time left. Without a terminal, occasional log lines."""

    QUIET_SECONDS = 30.0
    _last_line = float("-inf")

    def show(self, values: dict[str, Any]) -> None:
        """Show the values of a line of metrics.jsonl."""
        text = f"loss {values['loss']:.4f}, lr {values['lr']:.2e}, {values['images_per_second']:.1f} images/s"
        if not self.disable:
            self.set_postfix_str(text, refresh=False)
        elif time.monotonic() - self._last_line > self.QUIET_SECONDS:
            self._last_line = time.monotonic()
            logger.info("step %d of %d, epoch %.2f: %s", values["step"], self.total, values["epoch"], text)


def progress_bar(total_steps: int, step: int, is_main_process: bool) -> ProgressBar:
    """The progress bar of a run that is at ``step``. It is drawn only on a terminal."""
    return ProgressBar(
        total=total_steps,
        initial=step,
        unit="step",
        dynamic_ncols=True,
        disable=None if is_main_process else True,  # None: tqdm checks for a terminal
        bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}, {remaining} left{postfix}]",
    )

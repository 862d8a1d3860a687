"""The progress of a run, and signals turned into a flag that is checked between steps."""

import contextlib
import logging
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator

from fcmae.data.workers import ENDING_SIGNALS
from fcmae.progress import Progress, duration

logger = logging.getLogger(__name__)

STEPS_BETWEEN_QUESTIONS = 8  # at most
SECONDS_BETWEEN_QUESTIONS = 1.0  # as long as a step takes less


@contextlib.contextmanager
def signals_as_question(accelerator: Accelerator, progress: "TrainingProgress") -> Iterator[Callable[[], bool]]:
    """While open, signals such as Ctrl-C only set a flag. The function returns whether any process received one.

    All processes must call it once per step. Several processes exchange their flags after each step, or every few steps
    if these are short, because the one that has done most has to wait. A second Ctrl-C interrupts at once.
    """
    received: list[int] = []
    exchange = _Exchange(accelerator)

    def is_asked_to_stop() -> bool:
        return bool(received) if accelerator.num_processes == 1 else exchange.is_asked(bool(received))

    def note(number: int, _frame: object) -> None:
        received.append(number)
        logger.warning(
            "%s: %s; Ctrl-C again stops at once and loses what is not saved",
            signal.Signals(number).name, progress.until_stopped(exchange.steps_left),
        )  # fmt: skip
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before: dict[int, Any] = {}
    with contextlib.suppress(ValueError):  # outside the main thread, signals belong to the calling program
        before = {number: signal.signal(number, note) for number in ENDING_SIGNALS}
    try:
        yield is_asked_to_stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Exchange:
    """Whether any process received a signal, asked after as many steps as the main process does in about a second.

    The processes ask by their CPUs: GPUs are not waited for. All of them must make it.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator, self.steps_left = accelerator, 1
        self._group: Any = dist.new_group(backend="gloo") if accelerator.num_processes > 1 else None
        self._steps, self._since = 1, 0.0  # of the interval that is running; since 0: unknown

    def is_asked(self, received: bool) -> bool:
        """Called once per step by all processes."""
        self.steps_left -= 1
        if self.steps_left:
            return False
        now = time.monotonic()
        seconds, self._since = (now - self._since) / self._steps if self._since else float("inf"), now
        steps = min(STEPS_BETWEEN_QUESTIONS, max(1, int(SECONDS_BETWEEN_QUESTIONS / max(seconds, 1e-3))))
        mine = [int(received), steps if self.accelerator.is_main_process else 0]
        anyone, self._steps = self._sums(mine)
        self.steps_left = self._steps
        return anyone > 0

    def _sums(self, mine: list[int]) -> list[int]:
        numbers = torch.tensor(mine)
        dist.all_reduce(numbers, group=self._group)
        return numbers.tolist()


class TrainingProgress(Progress):
    """Steps, loss, learning rate, images per second and time left; it moves with every micro-batch.

    Args:
        total_steps: steps of the whole run.
        step: steps done before.
        micro_batches: of each step.
        shown: whether this is the main process.
        checkpoint_bytes: size of a checkpoint; 0: not known.
    """

    def __init__(self, total_steps: int, step: int, micro_batches: int, shown: bool, checkpoint_bytes: int = 0) -> None:
        self.total_steps, self.micro_batches, self._details = total_steps, micro_batches, ""
        self._checkpoint_bytes = checkpoint_bytes
        self._seconds_to_save: float | None = None  # as the last one took
        super().__init__("step", total_steps * micro_batches, step * micro_batches, shown)

    def label(self) -> str:
        """The step that is being computed, and where in it."""
        step, micro_batch = divmod(self.done, self.micro_batches)
        inside = f", micro-batch {micro_batch} of {self.micro_batches}" if micro_batch else ""
        return f"step {step:,} of {self.total_steps:,}{inside}"

    def details(self) -> str:
        """The last values logged."""
        return self._details

    def show(self, values: dict[str, Any]) -> None:
        """Show the values of a line of metrics.jsonl from now on."""
        self._details = (
            f"epoch {values['epoch']:.2f}, loss {values['loss']:.4f}, lr {values['lr']:.2e}, "
            f"{values['images_per_second']:.1f} images/s"
        )
        if (waited := values.get("data_wait", 0.0)) >= 0.01:
            self._details += f", {waited:.0%} waiting for data"

    def seconds_to_stop(self, steps: int = 1) -> float | None:
        """Seconds until the step that is being computed is done, and ``steps`` − 1 more; None: not known yet."""
        return self.seconds_left(steps * self.micro_batches - self.done % self.micro_batches)

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Around the writing of a checkpoint: how long it takes counts for the next."""
        started = time.monotonic()
        yield
        self._seconds_to_save = time.monotonic() - started

    def until_stopped(self, steps: int = 1) -> str:
        """What is still done when the run is asked to stop, and about how long it takes, as far as that is known."""
        step, save = self.seconds_to_stop(steps), self._seconds_to_save
        if step is not None and save is not None:
            return f"finishing this step and saving (about {duration(max(1, step + save))})"
        about = "" if step is None else f" (about {duration(max(1, step))})"
        size = f" {self._checkpoint_bytes / 1e6:,.0f} MB" if self._checkpoint_bytes else ""  # no time is known yet
        took = "" if save is None else f" (about {duration(max(1, save))})"
        return f"finishing this step{about}, then saving{size if save is None else took}"

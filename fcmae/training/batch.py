"""How the images of an optimizer step are divided into micro-batches, and whether the learning rate suits the step."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from fcmae.config import BASE_BATCH, BATCH_SIZE, OptimizationConfig
from fcmae.errors import UserError
from fcmae.wording import counted

logger = logging.getLogger(__name__)

ROUNDING = 1e-6  # of a peak learning rate that is computed from base_lr


@dataclass(frozen=True)
class Batch:
    """The images of one optimizer step."""

    size: int
    """Images per device and micro-batch."""
    accumulation_steps: int
    num_processes: int

    @property
    def effective(self) -> int:
        """Images per optimizer step, over all devices."""
        return self.size * self.accumulation_steps * self.num_processes

    def __str__(self) -> str:
        return (
            f"--train.batch_size {self.size} × --train.accumulation_steps {self.accumulation_steps} × "
            f"{_processes(self.num_processes)}"
        )


def expected_batch(train: OptimizationConfig, num_processes: int) -> int:
    """Images per optimizer step, before the network and the device are known; :func:`divide_batch` checks them."""
    if train.effective_batch is not None:
        return train.effective_batch
    return (train.batch_size or BATCH_SIZE) * (train.accumulation_steps or 1) * num_processes


def divide_batch(
    train: OptimizationConfig, num_processes: int, largest: Callable[[], int], recorded: object = None
) -> Batch:
    """The micro-batches that ``train`` asks for.

    Args:
        train: ``effective_batch``, ``batch_size`` and ``accumulation_steps``, any of which may be unset.
        num_processes: processes that share the optimizer step.
        largest: the largest micro-batch that fits in memory. Called only if the size follows from nothing else.
        recorded: the micro-batch size of the run to resume, preferred if it divides the effective batch.

    Raises:
        UserError: the effective batch is not a whole number of micro-batches, or contradicts the other two settings.
    """
    wanted, size, steps = train.effective_batch, train.batch_size, train.accumulation_steps
    if wanted is None:
        return Batch(size or BATCH_SIZE, steps or 1, num_processes)
    if size is not None and steps is not None:
        batch = Batch(size, steps, num_processes)
        if batch.effective != wanted:
            raise UserError(
                f"--train.effective_batch is {wanted}, but {batch} = {batch.effective}; "
                f"leave one of them out (or set it to null)"
            )
        return batch
    unit = num_processes * (size or steps or 1)
    if wanted % unit:
        raise UserError(_does_not_divide(train, num_processes, unit))
    quotient = wanted // unit
    if size is not None:
        return Batch(size, quotient, num_processes)
    if steps is not None:
        return Batch(quotient, steps, num_processes)
    if not isinstance(recorded, int) or recorded < 1 or quotient % recorded:
        recorded = largest_divisor(quotient, largest())
        if 4 * recorded < min(quotient, BATCH_SIZE):
            logger.warning(
                "--train.effective_batch %d divides into micro-batches of %d only, which is slow; "
                "a multiple of a power of two divides better",
                wanted, recorded,
            )  # fmt: skip
    return Batch(recorded, quotient // recorded, num_processes)


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of ``number`` that is at most ``limit``."""
    return next(divisor for divisor in range(min(number, limit), 0, -1) if number % divisor == 0)


def _does_not_divide(train: OptimizationConfig, num_processes: int, unit: int) -> str:
    """What is wrong, and the nearest values that work."""
    wanted = train.effective_batch or 0
    factors, other = [_processes(num_processes)], ""
    for name in ("batch_size", "accumulation_steps"):
        if (value := getattr(train, name)) is not None:
            factors.insert(0, f"--train.{name} {value}")
            if wanted % num_processes == 0:
                share = wanted // num_processes
                smaller = largest_divisor(share, value)
                larger = next((n for n in range(value, share + 1) if share % n == 0), smaller)
                other = f", or --train.{name} {' or '.join(map(str, sorted({smaller, larger})))}"
    below = wanted // unit * unit
    nearest = f"{below} or {below + unit}" if below else str(unit)
    return (
        f"--train.effective_batch {wanted} is not a multiple of {unit} ({' × '.join(factors)}); "
        f"take --train.effective_batch {nearest}{other}"
    )


def base_learning_rate(train: OptimizationConfig, effective_batch: int) -> float:
    """``base_lr``, or what suits the batch.

    The paper's rule is linear in the batch, which suits its 4096 images and gives far too little at 16. AdamW trains
    well at about 1e-3 with any small batch.
    """
    if train.base_lr is not None:
        return train.base_lr
    return max(train.linear_base_lr, train.usual_peak * BASE_BATCH / effective_batch)


def peak_learning_rate(train: OptimizationConfig, effective_batch: int) -> float:
    """The learning rate after the warm-up."""
    return base_learning_rate(train, effective_batch) * effective_batch / BASE_BATCH


def learning_rate_advice(train: OptimizationConfig, effective_batch: int) -> str | None:
    """One line if the peak learning rate is far both from the default and from the paper's rule."""
    peak, paper = peak_learning_rate(train, effective_batch), train.linear_base_lr * effective_batch / BASE_BATCH
    low, high = train.peaks
    if low * (1 - ROUNDING) <= peak <= max(high, 2 * paper) * (1 + ROUNDING):
        return None
    good = max(train.usual_peak, paper)
    what = "low: training will be slow" if peak < low else "high: training may diverge"
    return (
        f"a peak learning rate of {peak:.1e} with {counted(effective_batch, 'image')} per step is {what}; "
        f"--train.base_lr {good * BASE_BATCH / effective_batch:.2g} makes it {good:.1e}"
    )


def _processes(count: int) -> str:
    return counted(count, "process", "processes")
